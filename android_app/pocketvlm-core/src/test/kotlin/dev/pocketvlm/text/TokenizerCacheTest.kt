package dev.pocketvlm.text

import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.NotPortable
import dev.pocketvlm.bundle.hexadecimal
import dev.pocketvlm.folder
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.nio.ByteBuffer
import java.security.MessageDigest
import java.util.Random

class TokenizerCacheTest {
    @get:Rule
    val scratch = TemporaryFolder()
    private val content = folder("cases").resolve("tokenizers/qwen2.json").readBytes()
    private val sha256 = sha256(content)
    private var reads = 0

    private fun sha256(bytes: ByteArray) = hexadecimal(MessageDigest.getInstance("SHA-256").digest(bytes))

    private fun ids(directory: File?, sha256: String = this.sha256, content: ByteArray = this.content): List<Int> {
        val parts = readTokenizer(sha256, directory) {
            reads++
            content
        }
        return TextTokenizer(parts).encode(listOf(Span.Literal("<|im_end|>"), Span.PeopleText(" ſ 北京 don't \u00e9 1234")))
    }

    private fun kept(directory: File): File = checkNotNull(directory.listFiles()).single()

    @Test
    fun `the second time nothing is read but what was kept`() {
        val directory = scratch.root.resolve("not/yet/there")
        val wanted = ids(null)
        assertEquals(listOf(wanted, wanted, wanted), List(3) { ids(directory) })
        assertEquals(2, reads)
    }

    @Test
    fun `what is damaged, cut or of another format is made anew`() {
        val wanted = ids(scratch.root)
        val file = kept(scratch.root)
        val whole = file.readBytes()
        val random = Random(7)
        val damaged = List(40) { whole.copyOf().also { bytes -> bytes[random.nextInt(bytes.size)] = random.nextInt(256).toByte() } }
            .filterNot(whole::contentEquals)
        for (bytes in damaged + List(8) { whole.copyOf(random.nextInt(whole.size)) } + listOf(whole + 0, ByteArray(0))) {
            file.writeBytes(bytes)
            reads = 0
            assertEquals(wanted, ids(scratch.root))
            assertEquals(1, reads)
            assertArrayEquals(whole, kept(scratch.root).readBytes())
        }
    }

    /** With a digest that fits: what somebody would write who means it. */
    @Test
    fun `numbers that are no tokens are not taken, and sizes are looked at before memory is`() {
        ids(scratch.root)
        val whole = kept(scratch.root).readBytes()
        assertNotNull(packedOf(signed(whole) {}, sha256))
        val rest = ByteBuffer.wrap(whole).getInt(40)
        val tokens = ByteBuffer.wrap(whole).getInt(44)
        val ids = 56 + rest
        val last = whole.size - 32 - 4
        val large = 1 shl 30
        val sizes = listOf(40 to Int.MAX_VALUE, 44 to -1, 44 to large, 48 to 0, 52 to 1)
        val numbers = listOf(ids to -5, ids + 4 * tokens to large, last to Int.MAX_VALUE, last to 3, last - 4 to -1, last - 8 to large)
        for ((at, value) in sizes + numbers) {
            assertNull("$value at $at", packedOf(signed(whole) { it.putInt(at, value) }, sha256))
        }
        assertNull(packedOf(whole, "0".repeat(64)))
    }

    private fun signed(whole: ByteArray, change: (ByteBuffer) -> Unit): ByteArray {
        val bytes = whole.copyOf().also { change(ByteBuffer.wrap(it)) }
        val size = bytes.size - 32
        MessageDigest.getInstance("SHA-256").apply { update(bytes, 0, size) }.digest().copyInto(bytes, size)
        return bytes
    }

    @Test
    fun `a directory that cannot be used is no error`() {
        val wanted = ids(null)
        val file = scratch.newFile()
        assertEquals(wanted, ids(file))
        assertEquals(0L, file.length())
        assertTrue(scratch.root.resolve("tokenizer-$sha256.packed").mkdir())
        assertTrue(scratch.root.resolve("tokenizer-$sha256.packed/in the way").createNewFile())
        assertEquals(wanted, ids(scratch.root))
        assertEquals(0, checkNotNull(scratch.root.listFiles { one -> one.extension == "part" }).size)
    }

    @Test
    fun `nothing is kept of a file that is refused, or that the manifest does not mean`() {
        assertThrows(BundleDamaged::class.java) { ids(scratch.root, sha256 = "0".repeat(64)) }
        val other = String(content).replace("\"NFC\"", "\"NFKC\"").toByteArray()
        assertThrows(NotPortable::class.java) { ids(scratch.root, sha256(other), other) }
        assertEquals(0, checkNotNull(scratch.root.listFiles()).size)
    }
}
