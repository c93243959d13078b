@file:Suppress("unused")

package dev.pocketvlm.android

import android.app.Activity
import android.content.Context
import android.graphics.Bitmap
import android.net.Uri
import android.os.Bundle
import android.widget.ProgressBar
import android.widget.TextView
import dev.pocketvlm.Chat
import dev.pocketvlm.ChatConfig
import dev.pocketvlm.Encoding
import dev.pocketvlm.GenerationConfig
import dev.pocketvlm.Image
import dev.pocketvlm.Options
import dev.pocketvlm.PocketVlm
import dev.pocketvlm.PocketVlmException
import dev.pocketvlm.store.BundleSource
import dev.pocketvlm.store.BundleStore
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.MainScope
import kotlinx.coroutines.cancel
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import java.io.File

// What docs/android.md shows, compiled: tests/docs holds the page to this file.

class MinimalActivity : Activity() {
    private val scope = MainScope()
    private var model: PocketVlm? = null

    override fun onCreate(saved: Bundle?) {
        super.onCreate(saved)
        val view = TextView(this).also(::setContentView)
        scope.launch {
            try {
                val bundle = File(getExternalFilesDir(null), "bundles/reader-gptq-g32")
                val opened = PocketVlm.open(this@MinimalActivity, bundle).also { model = it }
                opened.stream("Hello, who are you?").collect { view.append(it.text) }
            } catch (error: PocketVlmException) {
                view.text = error.message
            }
        }
    }

    override fun onDestroy() {
        scope.cancel() // ends the answer within a run of the engine
        model?.close() // never waits
        super.onDestroy()
    }
}

suspend fun fetched(context: Context, manifestSha256: String, bar: ProgressBar, open: suspend (File) -> Unit) {
    val store = BundleStore(File(context.noBackupFilesDir, "bundles"))
    val source = BundleSource("https://models.example.com/reader/3f9c1d2")   // the revision in the address: it never changes
    store.fetch(source, manifestSha256).collect { progress ->
        bar.max = (progress.bytesTotal shr 10).toInt()
        bar.progress = (progress.bytesDone shr 10).toInt()
        progress.installed?.let { bundle -> open(bundle.directory) }         // what PocketVlm.open takes
    }
}

/** What the page uses of Play's library, by its names. */
interface AssetPackManager {
    fun getPackLocation(pack: String): AssetPackLocation?

    fun removePack(pack: String)
}

interface AssetPackLocation {
    fun assetsPath(): String?
}

suspend fun assembled(store: BundleStore, manager: AssetPackManager, packs: List<String>, manifestSha256: String): File {
    val folders = packs.map { File(manager.getPackLocation(it)!!.assetsPath()!!) }
    val bundle = store.assemble(folders, manifestSha256)
    packs.forEach(manager::removePack)             // the store has copies
    return bundle.directory
}

suspend fun askAboutPicture(context: Context, model: PocketVlm, uri: Uri, show: (String) -> Unit) {
    val chat = model.chat(ChatConfig(dropOldest = true))
    val picture = withContext(Dispatchers.IO) { Image.of(context, uri) } // upright, sRGB; a Bitmap does as well
    val attachment = chat.addImage(picture) // encoding begins here, before anybody has typed
    show("${attachment.tiling.columns} x ${attachment.tiling.rows} tiles, ${attachment.tiling.tokens} tokens")
    chat.stream("What is the total?", GenerationConfig(maxNewTokens = 64)).collect { piece ->
        show(piece.text)
        piece.stats.finishReason?.let { show("$it at ${piece.stats.decodeTokensPerSecond} tokens a second") }
    }
    chat.ask("And the date?") // the picture stays: only the question is computed
}

fun watch(scope: CoroutineScope, chat: Chat, bitmap: Bitmap, show: (String) -> Unit): Job = scope.launch {
    val attachment = chat.addImage(Image.of(bitmap))
    attachment.state.collect { state ->
        when (state) {
            is Encoding.Waiting -> show("waits for another picture")
            is Encoding.Running -> show("${state.tilesDone} of ${state.tiles} tiles")
            is Encoding.Ready -> show("ready after ${state.seconds} s")
            is Encoding.Failed -> show(state.error.message.orEmpty())
            is Encoding.Removed -> show("removed")
        }
    }
}

suspend fun keptAcrossProcesses(context: Context, model: PocketVlm, chat: Chat): Chat {
    val file = File(context.noBackupFilesDir, "chat")
    chat.save(file)
    return model.restore(file)
}

fun whatToSay(error: PocketVlmException): String = when (error) {
    is PocketVlmException.NoMemory -> "Close other apps: ${error.needed} bytes are needed, ${error.free} are free."
    is PocketVlmException.NoSpace -> "Free ${error.needed - error.free} bytes of storage."
    is PocketVlmException.DownloadFailed -> if (error.retryable) "Try again later." else "This download is gone."
    is PocketVlmException.KvFull -> "This conversation is full: start a new one."
    is PocketVlmException.ImageUnusable -> "This picture cannot be used."
    is PocketVlmException.BundleDamaged -> "The model is damaged: download it again."
    is PocketVlmException.BundleTooNew -> "Update the app for this model."
    is PocketVlmException.NotPortable -> "This model does not run here."
    is PocketVlmException.ChatInvalid, is PocketVlmException.EngineFailed, is PocketVlmException.Closed ->
        error.message.orEmpty()
}

suspend fun tuned(context: Context, bundle: File): PocketVlm {
    val options = Options(threads = 4, keepVision = false, cacheDirectory = context.cacheDir)
    return PocketVlm.open(context, bundle, options) { step -> println(step) }
}
