package dev.pocketvlm.store

import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.DownloadFailed
import dev.pocketvlm.PocketVlmException.NoSpace
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.cancel
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.io.IOException
import java.io.InputStream

/** Bundles that come as one file, and what is left of whatever ended too early. */
class ImportTest {
    @get:Rule
    val folder = TemporaryFolder()
    private val place: File get() = folder.root.resolve("store")
    private val store get() = storeIn(place)
    private val one = STORED.resolve("one")
    private val zip = STORED.resolve("one.zip").readBytes()

    @Test
    fun `a zip becomes the bundle that it was made of`() {
        repeat(2) { assertSame(one, imported(zip.inputStream()).directory) }
        imported(STORED.resolve("two.zip").inputStream())
        assertEquals(listOf("one", "two"), store.installed().map { it.model })
        assertSame(STORED.resolve("two"), store.installed().last().directory)
        // an app that gives its asset with each start does not wait for it
        assertSame(one, imported(Watched(zip) { throw AssertionError("it was read") }, digestOf(one)).directory)
        one.resolve("empty.bin").copyTo(place.resolve("${digestOf(one)}/weights/text.data"), overwrite = true)
        assertSame(one, imported(zip.inputStream(), digestOf(one)).directory)
        assertNothingElse(digestOf(one), digestOf(STORED.resolve("two")))
    }

    @Test
    fun `what is no such bundle is refused and leaves nothing`() {
        val other = failure<BundleDamaged> { imported(zip.inputStream(), digestOf(STORED.resolve("two"))) }
        assertEquals("the archive is not the bundle whose SHA-256 was given", other.message)
        assertNothingElse()
        for (end in listOf(0, 3, 100, zip.size / 2, zip.size - 1)) failure<BundleDamaged> { imported(zip.copyOf(end).inputStream()) }
        for (at in listOf(0, zip.size / 2)) {
            failure<BundleDamaged> { imported(zip.copyOf().also { it[at] = (it[at] + 1).toByte() }.inputStream()) }
        }
        assertThrows(IllegalArgumentException::class.java) { imported(zip.inputStream(), "one") }
        assertNothingElse()
    }

    @Test
    fun `a disk that is full and a source that fails are told apart, and leave nothing`() {
        for (free in listOf(0L, 1000, zip.size / 2L, zip.size - 1L)) {
            val full = storeIn(place, free = free)
            val file = failure<NoSpace> { runBlocking { full.import(zip.inputStream()) } }
            assertEquals(listOf(zip.size.toLong(), free), listOf(file.needed, file.free))
            val stream = failure<NoSpace> { runBlocking { full.import(Watched(zip) {}) } }
            assertTrue("${stream.needed} of $free", stream.needed in free + 1..zip.size)
        }
        for (end in listOf(0, 100, zip.size / 2, zip.size)) {
            val source = Watched(zip) { if (it >= end) throw IOException("gone") }
            val error = failure<DownloadFailed> { imported(source) }
            assertTrue(error.message, error.retryable && "(gone)" in error.message.orEmpty())
        }
        assertNothingElse()
        assertSame(one, runBlocking { storeIn(place, free = zip.size.toLong()).import(zip.inputStream()) }.directory)
    }

    @Test
    fun `an import that is cancelled leaves nothing, also where its source is closed then`() {
        for (closed in listOf(false, true)) {
            val at = runBlocking(Dispatchers.Default) {
                var last = 0
                val job = async {
                    val source = Watched(zip) {
                        last = it
                        if (it > zip.size / 2) {
                            cancel()
                            if (closed) throw IOException("closed")
                        }
                    }
                    store.import(source)
                }
                assertTrue("it ended otherwise", runCatching { job.await() }.exceptionOrNull() is CancellationException)
                last
            }
            assertTrue("it read on", at < zip.size)
            assertNothingElse()
        }
        assertSame(one, imported(zip.inputStream()).directory)
    }

    @Test
    fun `what a process left that died is removed, what one does that lives is not`() {
        val left = listOf(".import/weights", ".import.part/weights", ".deleted-1").map(place::resolve)
        left.forEach(File::mkdirs)
        imported(zip.inputStream())
        assertNothingElse(digestOf(one))
        left.forEach(File::mkdirs)
        runBlocking {
            locked(place.resolve(".lock-import").toPath()) { store.assemble(listOf(one), digestOf(one)) }
            assertTrue(left[0].exists() && left[1].exists())
            store.assemble(listOf(one), digestOf(one))
        }
        assertNothingElse(digestOf(one))
    }

    @Test
    fun `a bundle that is whole is not unfinished as well`() {
        val name = digestOf(one)
        place.resolve(".partial-$name/bundle/weights").mkdirs()
        place.resolve(".partial-$name/bundle/weights/text.data").writeText("a fetch began it")
        assertEquals(listOf(name), store.unfinished())
        assertSame(one, imported(zip.inputStream()).directory)
        assertNothingElse(name)
        place.resolve(".partial-$name/parts").mkdirs() // killed between the rename and the end
        assertSame(one, runBlocking { store.assemble(listOf(one), name) }.directory)
        assertNothingElse(name)
        place.resolve(".partial-$name/parts").mkdirs()
        assertSame(one, imported(zip.inputStream(), name).directory)
        assertNothingElse(name)
    }

    private fun imported(from: InputStream, wanted: String? = null): InstalledBundle = runBlocking { store.import(from, wanted) }

    /** That the store has these bundles and, but for locks, nothing else. */
    private fun assertNothingElse(vararg bundles: String) {
        assertEquals(bundles.sorted(), place.list()!!.filter { !it.startsWith(".lock-") }.sorted())
        assertEquals(bundles.sorted(), store.installed().map { it.name }.sorted())
    }

    /** A stream that does not say how long it is; calls [before] with the place of each byte or block that is read. */
    private class Watched(private val content: ByteArray, private val before: (Int) -> Unit) : InputStream() {
        private val inner = content.inputStream()

        override fun read(): Int {
            before(content.size - inner.available())
            return inner.read()
        }

        override fun read(to: ByteArray, offset: Int, count: Int): Int {
            before(content.size - inner.available())
            return inner.read(to, offset, count)
        }
    }
}
