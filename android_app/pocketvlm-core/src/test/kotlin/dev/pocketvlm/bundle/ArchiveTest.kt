package dev.pocketvlm.bundle

import dev.pocketvlm.Case
import dev.pocketvlm.PocketVlmException
import dev.pocketvlm.PocketVlmException.NotPortable
import dev.pocketvlm.folder
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.io.FilterInputStream
import java.io.IOException
import java.io.InputStream
import java.nio.file.FileAlreadyExistsException

/** Archives that `tests/android` wrote, with what Python's reader says of each. */
class ArchiveTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val cases = folder("cases").resolve("archives/archives.jsonl").readLines().map { Case(parseJson(it.toByteArray())) }

    @Test
    fun `archives unpack to what Python finds in them, or leave nothing`() {
        assertTrue(cases.size > 140)
        assertEquals(emptyList<String>(), cases.mapNotNull { case -> fault(case, content(case)) })
        assertTrue(cases.any { it.flag("whole") } && cases.count { it.flag("refused") } > 80)
        // what is refused where it must be taken, and taken where Python refuses it, is noticed
        val whole = cases.first { it.flag("whole") }
        assertEquals(2, listOf(fault(whole, content(whole).copyOf(9)), fault(whole.with("refused", true), content(whole))).count { it != null })
    }

    @Test
    fun `a source that fails leaves nothing, and what is there stays`() {
        val whole = content(cases.first { it.flag("whole") })
        val target = temporary.root.resolve("bundle")
        for (bytes in listOf(0, 5, 700, whole.size / 2, whole.size - 1)) {
            assertThrows(IOException::class.java) { unpackArchive(Failing(whole, bytes), target) }
            assertEquals(emptyList<String>(), temporary.root.list().orEmpty().toList())
        }
        temporary.root.resolve("bundle.part/of/a/process").mkdirs() // that died
        unpackArchive(whole.inputStream(), target)
        assertEquals(listOf("bundle"), temporary.root.list().orEmpty().toList())
        assertThrows(FileAlreadyExistsException::class.java) { unpackArchive(whole.inputStream(), target) }
        openBundle(target, verify = true)
    }

    @Test
    fun `an archive is not opened where it lies`() {
        val file = temporary.root.resolve("bundle.zip")
        file.writeBytes(content(cases.first { it.flag("whole") }))
        val refused = assertThrows(NotPortable::class.java) { openBundle(file) }
        assertTrue(refused.message, "is an archive: unpack it" in refused.message.orEmpty())
    }

    private fun content(case: Case): ByteArray {
        val content = File(case.text("base")).readBytes()
        for (edit in case.list("edits")) {
            val (at, value) = (edit as List<*>).map { (it as Long).toInt() }
            content[at] = value.toByte()
        }
        return content.copyOf(content.size - case.int("cut"))
    }

    /** What is wrong with what becomes of an archive; null where nothing is. */
    private fun fault(case: Case, content: ByteArray): String? {
        val target = temporary.root.resolve("unpacked")
        val said = try {
            unpackArchive(Slow(content.inputStream()), target) {}
            null
        } catch (error: PocketVlmException) {
            error.message
        }
        val wrong = when {
            said == null && case.flag("refused") -> "taken"
            said != null && case.flag("whole") -> said
            said != null && (said.contains('\n') || said.length > 800) -> "not one line: $said"
            said == null && found(target) != Case(case["files"]).toMap() -> "other files: ${found(target).keys}"
            said != null && temporary.root.list().orEmpty().isNotEmpty() -> "it leaves ${temporary.root.list()?.toList()}"
            else -> null
        }
        target.deleteRecursively()
        return wrong?.let { "${case.text("name")}: $it" }
    }

    private fun found(target: File): Map<String, String> = target.walk().filter { it.isFile }
        .associate { it.relativeTo(target).path to fileSha256(it.toPath()) }

    /** Some bytes at a time, as from a network. */
    private class Slow(inner: InputStream) : FilterInputStream(inner) {
        override fun read(to: ByteArray, at: Int, count: Int): Int = super.read(to, at, minOf(count, 1013))
    }

    /** Fails behind so many bytes. */
    private class Failing(private val bytes: ByteArray, private val most: Int) : InputStream() {
        private var at = 0

        override fun read(): Int = if (at == most) throw IOException("gone") else bytes[at++].toInt() and 0xff
    }
}
