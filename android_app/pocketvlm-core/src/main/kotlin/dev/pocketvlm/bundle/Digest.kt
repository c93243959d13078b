package dev.pocketvlm.bundle

import java.io.EOFException
import java.nio.ByteBuffer
import java.nio.channels.FileChannel
import java.nio.file.LinkOption.NOFOLLOW_LINKS
import java.nio.file.Path
import java.nio.file.StandardOpenOption.READ
import java.security.MessageDigest

private const val SAMPLE = 4096
private const val SAMPLES = 16
private const val BLOCK = 1 shl 20

/** A file that is no link; who opens it closes it. */
internal fun open(path: Path): FileChannel = FileChannel.open(path, setOf(READ, NOFOLLOW_LINKS))

/** The first [count] bytes of [to] from [offset] of the file on. Shape: [count]. */
internal fun FileChannel.readExactly(offset: Long, to: ByteArray, count: Int) {
    val buffer = ByteBuffer.wrap(to, 0, count)
    var at = offset
    while (buffer.hasRemaining()) {
        val got = read(buffer, at)
        if (got < 0) throw EOFException("it became shorter while it was read")
        at += got
    }
}

/** SHA-256 of a file, hexadecimal. */
internal fun fileSha256(path: Path): String = digest { add ->
    open(path).use { file ->
        val size = file.size()
        val block = ByteArray(BLOCK)
        for (at in 0 until size step BLOCK.toLong()) {
            val count = minOf(BLOCK.toLong(), size - at).toInt()
            file.readExactly(at, block, count)
            add(block, count)
        }
    }
}

/** SHA-256 over a file's size and 16 blocks of 4096 bytes spread over it; of one of at most 64 KiB all of it. */
internal fun sampleSha256(path: Path): String = digest { add ->
    open(path).use { file ->
        val size = file.size()
        val said = size.toString().toByteArray()
        add(said, said.size)
        val block = ByteArray(minOf(size, SAMPLE.toLong() * SAMPLES).toInt())
        if (size <= SAMPLE * SAMPLES) {
            file.readExactly(0, block, block.size)
            add(block, block.size)
        } else {
            for (index in 0 until SAMPLES) {
                file.readExactly((size - SAMPLE) * index / (SAMPLES - 1), block, SAMPLE)
                add(block, SAMPLE)
            }
        }
    }
}

/** SHA-256 of a text, hexadecimal. */
internal fun sha256(content: ByteArray): String = digest { add -> add(content, content.size) }

private fun digest(feed: (add: (ByteArray, Int) -> Unit) -> Unit): String {
    val digest = MessageDigest.getInstance("SHA-256")
    feed { bytes, count -> digest.update(bytes, 0, count) }
    return hexadecimal(digest.digest())
}

internal fun hexadecimal(bytes: ByteArray): String = bytes.joinToString("") { "%02x".format(java.util.Locale.ROOT, it) }
