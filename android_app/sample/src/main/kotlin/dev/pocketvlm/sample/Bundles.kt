package dev.pocketvlm.sample

import android.content.Context
import dev.pocketvlm.PocketVlm
import dev.pocketvlm.PocketVlmException
import dev.pocketvlm.store.BundleStore
import java.io.File

/** A bundle that can be opened; one that was pushed to the phone is not the store's, so the app does not delete it. */
internal class Found(val name: String, val directory: File, val bytes: Long, val storeName: String?)

/** Where bundles are: the store's, and folders that `adb push` has put beside them. */
internal class Bundles(context: Context) {
    val store: BundleStore = BundleStore(File(context.filesDir, "bundles"))

    /** Where a bundle can be pushed to; null while the shared storage is not there. */
    val pushed: File? = context.getExternalFilesDir("bundles")

    private val preferences = context.getSharedPreferences("bundles", Context.MODE_PRIVATE)

    /** What is opened at the next start. */
    var last: File?
        get() = preferences.getString("last", null)?.let(::File)?.takeIf { it.isDirectory }
        set(value) = preferences.edit().putString("last", value?.path).apply()

    /**
     * Written before a bundle is opened and removed after. Where it is still there at a start, opening has ended the
     * process, and doing it again unasked would do so each time.
     */
    var opening: Boolean
        get() = preferences.getBoolean("opening", false)
        set(value) {
            preferences.edit().putBoolean("opening", value).commit()
        }

    /** What can be opened, by name. Reads manifests: not for the main thread. */
    fun find(): List<Found> {
        val installed = store.installed().map { Found(it.model, it.directory, it.bytes, it.name) }
        return (installed + pushed?.listFiles().orEmpty().mapNotNull(::inspect)).sortedBy { it.name }
    }

    private fun inspect(directory: File): Found? = try {
        if (directory.isDirectory) Found(directory.name, directory, PocketVlm.inspect(directory).bytes, null) else null
    } catch (_: PocketVlmException) {
        null // half pushed, or something else
    }
}
