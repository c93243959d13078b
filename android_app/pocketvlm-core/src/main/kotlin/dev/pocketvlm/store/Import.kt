package dev.pocketvlm.store

import dev.pocketvlm.PocketVlmException.DownloadFailed
import dev.pocketvlm.PocketVlmException.NoSpace
import dev.pocketvlm.bundle.oneLineOf
import java.io.IOException
import java.io.InputStream

/** Whose lock an import has. */
internal const val IMPORT: String = "import"

/** Where an import unpacks; what begins so is an import's. */
internal const val IMPORTED: String = ".import"

/**
 * The archive of an import. Reading fails by a typed error where [from] fails, or has more than the [free] bytes of the
 * disk; and by whatever [check] throws once nobody waits for the import.
 */
internal class ImportSource(
    private val from: InputStream,
    private val free: Long,
    private val check: () -> Unit,
) : InputStream() {
    /** How many were read. */
    var bytes: Long = 0
        private set

    override fun read(): Int = checked { from.read() }.also { if (it >= 0) count(1) }

    override fun read(to: ByteArray, offset: Int, count: Int): Int = checked { from.read(to, offset, count) }.also(::count)

    private fun checked(read: () -> Int): Int {
        check()
        return try {
            read()
        } catch (error: IOException) {
            check() // closed by who cancelled
            throw DownloadFailed("the archive cannot be read (${oneLineOf(error)}): open it again", retryable = true, error)
        }
    }

    private fun count(more: Int) {
        bytes += maxOf(more, 0)
        val needed = bytes + checked { from.available() } // a file knows what is still to come
        if (needed > free) throw NoSpace(needed, free)
    }
}
