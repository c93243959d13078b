package dev.pocketvlm.sample

import dev.pocketvlm.store.PartSource
import java.io.FilterInputStream
import java.io.IOException
import java.io.InputStream
import java.security.MessageDigest
import java.util.zip.ZipInputStream

/** A .zip that has no bundle in it, or cannot be read. */
internal class ZipUnusable(message: String, cause: Throwable? = null) : Exception(message, cause)

private const val MANIFEST = "manifest.json"
private const val MAX_MANIFEST = 16 shl 20

/**
 * A bundle's files in a .zip, at its top or in a folder, unpacked while they are read: another app gives a stream and no
 * file, and a copy would need the space twice. One pass is enough where the order is the manifest's.
 *
 * @param again opens the .zip from its beginning
 */
internal class ZippedBundle(private val again: () -> InputStream) : PartSource, AutoCloseable {
    private var zip: ZipInputStream? = null
    private val folder: String

    /** SHA-256 of the manifest, by which the store knows the bundle. */
    val digest: String

    init {
        val name = advance { it == MANIFEST || it.endsWith("/$MANIFEST") } ?: throw ZipUnusable("it has no $MANIFEST")
        folder = name.removeSuffix(MANIFEST)
        digest = sha256(checkNotNull(zip))
    }

    override fun open(name: String): InputStream? {
        val wanted = folder + name
        if (advance { it == wanted } == null) {
            close()
            advance { it == wanted } ?: return null
        }
        return Entry(checkNotNull(zip))
    }

    override fun close() {
        zip?.close()
        zip = null
    }

    /** Goes to the next entry of such a name, which it returns; null at the end. */
    private fun advance(isWanted: (String) -> Boolean): String? = reading {
        val open = zip ?: ZipInputStream(again()).also { zip = it }
        generateSequence { open.nextEntry }.firstOrNull { !it.isDirectory && isWanted(it.name) }?.name
    }

    private fun sha256(manifest: InputStream): String = reading {
        val hash = MessageDigest.getInstance("SHA-256")
        val buffer = ByteArray(1 shl 16)
        var size = 0
        while (true) {
            val read = manifest.read(buffer)
            if (read < 0) break
            size += read
            if (size > MAX_MANIFEST) throw ZipUnusable("its $MANIFEST is too large")
            hash.update(buffer, 0, read)
        }
        hash.digest().joinToString("") { "%02x".format(it) }
    }

    /** The store would take a bad .zip for a bad disk. */
    private fun <T> reading(block: () -> T): T = try {
        block()
    } catch (error: IOException) {
        throw ZipUnusable(error.message ?: "it cannot be read", error)
    }

    private inner class Entry(zip: ZipInputStream) : FilterInputStream(zip) {
        override fun read(): Int = reading { super.read() }

        override fun read(into: ByteArray, offset: Int, length: Int): Int = reading { super.read(into, offset, length) }

        /** The rest of the .zip stays open. */
        override fun close() = Unit
    }
}
