package dev.pocketvlm.text

import dev.pocketvlm.PocketVlmException
import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.bundle.open
import dev.pocketvlm.bundle.readExactly
import dev.pocketvlm.bundle.sha256 as sha256Of
import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.channels.FileChannel
import java.nio.file.AtomicMoveNotSupportedException
import java.nio.file.Files
import java.nio.file.InvalidPathException
import java.nio.file.Path
import java.nio.file.StandardCopyOption.ATOMIC_MOVE
import java.nio.file.StandardCopyOption.REPLACE_EXISTING
import java.nio.file.StandardOpenOption.WRITE
import java.security.MessageDigest

/** First bytes; the last of them is the format's number, which a change of what is stored raises. */
private const val MAGIC = "pvlmtok1"
private const val DIGEST = 32

/** Magic, digest of the tokenizer, sizes of what follows. */
private const val HEADER = 8 + DIGEST + 4 * 4

/**
 * Reads a tokenizer by what [directory] keeps of it, else by the file that [read] gives, and then keeps that. [sha256] is
 * the file's, in hexadecimal, as the manifest says.
 *
 * What is kept is held to what a file is held to: sizes, numbers that are tokens, merges that make what they join. What
 * is cut, damaged or of another tokenizer is made anew. It is not proof against somebody who may write to [directory]
 * and means to deceive: give one that only the app can write to, such as Android's `cacheDir`. A directory that cannot
 * be read or written costs time, and is no error.
 *
 * @throws BundleDamaged the file is no tokenizer, or another one than [sha256] says
 * @throws PocketVlmException.NotPortable it is of a kind that this library does not read
 */
internal fun readTokenizer(sha256: String, directory: File?, read: () -> ByteArray): TokenizerParts {
    if (directory == null) return readTokenizer(read())
    val file = try {
        directory.toPath().resolve("tokenizer-$sha256.packed")
    } catch (error: InvalidPathException) {
        return readTokenizer(read())
    }
    kept(file, sha256)?.let { return it }
    val content = read()
    if (sha256Of(content) != sha256) {
        throw BundleDamaged("tokenizer.json does not have the content that the manifest describes: it is damaged or was swapped")
    }
    val packed = packTokenizer(content)
    return partsOf(packed).also { keep(file, bytesOf(packed, sha256)) }
}

/** What the file keeps, or null where it is not there or not right. */
private fun kept(file: Path, sha256: String): TokenizerParts? = try {
    open(file).use { channel ->
        if (channel.size() !in HEADER + DIGEST..MAX_TOKENIZER_BYTES) return null
        val content = ByteArray(channel.size().toInt())
        channel.readExactly(0, content, content.size)
        packedOf(content, sha256)?.let(::partsOf)
    }
} catch (error: IOException) {
    null
} catch (error: PocketVlmException) {
    null
}

/** Writes beside, then moves: who reads meanwhile sees the old file or the new one. */
private fun keep(file: Path, content: ByteArray) {
    var part: Path? = null
    try {
        Files.createDirectories(file.parent)
        part = Files.createTempFile(file.parent, "tokenizer-", ".part")
        FileChannel.open(part, WRITE).use { channel ->
            val bytes = ByteBuffer.wrap(content)
            while (bytes.hasRemaining()) channel.write(bytes)
            channel.force(true)
        }
        try {
            Files.move(part, file, ATOMIC_MOVE)
        } catch (error: AtomicMoveNotSupportedException) {
            Files.move(part, file, REPLACE_EXISTING)
        }
    } catch (error: IOException) {
        part?.let { runCatching { Files.deleteIfExists(it) } }
    }
}

/** The content of the file: header, rest, numbers, ends, texts, merges, and the digest of all that. */
private fun bytesOf(packed: PackedTokenizer, sha256: String): ByteArray {
    val of = packed.vocabulary
    val size = HEADER + packed.rest.size + 8 * of.size + of.bytes.size + 4 * packed.merges.size
    val to = ByteBuffer.allocate(size + DIGEST)
    to.put(MAGIC.toByteArray()).put(bytesOf(sha256))
    for (count in intArrayOf(packed.rest.size, of.size, of.bytes.size, packed.merges.size)) to.putInt(count)
    to.put(packed.rest)
    for (numbers in arrayOf(of.ids, of.ends)) for (number in numbers) to.putInt(number)
    to.put(of.bytes)
    for (number in packed.merges) to.putInt(number)
    to.put(digest(to.array(), size))
    return to.array()
}

private fun bytesOf(hexadecimal: String) = ByteArray(DIGEST) { hexadecimal.substring(2 * it, 2 * it + 2).toInt(16).toByte() }

private fun digest(content: ByteArray, size: Int): ByteArray =
    MessageDigest.getInstance("SHA-256").apply { update(content, 0, size) }.digest()

/** What such content holds; null where it is of another tokenizer, damaged, or says what no file could. */
internal fun packedOf(content: ByteArray, sha256: String): PackedTokenizer? {
    val from = ByteBuffer.wrap(content)
    if (!taken(from, 8).contentEquals(MAGIC.toByteArray()) || !taken(from, DIGEST).contentEquals(bytesOf(sha256))) return null
    val counts = LongArray(4) { from.int.toLong() }
    val (rest, tokens, bytes, merges) = counts
    if (counts.any { it < 0 } || merges % 3 != 0L) return null
    if (HEADER + rest + 8 * tokens + bytes + 4 * merges + DIGEST != content.size.toLong()) return null
    val size = content.size - DIGEST
    if (!digest(content, size).contentEquals(content.copyOfRange(size, content.size))) return null
    val kept = taken(from, rest.toInt())
    val ids = numbers(from, tokens.toInt())
    val ends = numbers(from, tokens.toInt())
    val texts = taken(from, bytes.toInt())
    if (ids.any { it < 0 } || !isRising(ends, texts.size)) return null
    val vocabulary = Vocabulary(texts, ends, ids)
    val packed = PackedTokenizer(kept, vocabulary, numbers(from, merges.toInt()))
    return packed.takeIf { areJoined(it.merges, vocabulary) }
}

private fun taken(from: ByteBuffer, count: Int) = ByteArray(count).also { from.get(it) }

private fun numbers(from: ByteBuffer, count: Int): IntArray {
    val numbers = IntArray(count)
    from.asIntBuffer().get(numbers)
    (from as java.nio.Buffer).position(from.position() + 4 * count)
    return numbers
}

private fun isRising(ends: IntArray, size: Int): Boolean {
    var last = 0
    for (end in ends) {
        if (end < last) return false
        last = end
    }
    return last == size
}

/** Whether each merge gives the token that its two make. */
private fun areJoined(merges: IntArray, vocabulary: Vocabulary): Boolean {
    val joined = ByteArray(2 * MAX_TOKEN_BYTES)
    for (at in merges.indices step 3) {
        val middle = vocabulary.copy(merges[at], joined, 0)
        val end = if (middle < 0) -1 else vocabulary.copy(merges[at + 1], joined, middle)
        if (end < 0 || vocabulary.find(joined, 0, end) != merges[at + 2]) return false
    }
    return true
}
