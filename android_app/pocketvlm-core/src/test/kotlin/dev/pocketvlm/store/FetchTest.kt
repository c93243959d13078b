package dev.pocketvlm.store

import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.DownloadFailed
import dev.pocketvlm.PocketVlmException.NoSpace
import dev.pocketvlm.bundle.sha256
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.flow.last
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File

private const val WEIGHTS = "/one/weights/text.data"

/** What a server can do to a fetch, one thing at a time. */
class FetchTest {
    @get:Rule
    val folder = TemporaryFolder()
    private val server = FaultyServer(STORED)
    private val place: File get() = folder.root.resolve("store")
    private val one = STORED.resolve("one")

    @After
    fun close() = server.close()

    private fun requests(path: String) = server.asked.filter { it.path == path }

    private fun faultAt(path: String, vararg faults: Fault) {
        val left = faults.toMutableList()
        server.fault = { asked -> synchronized(left) { if (asked.path == path) left.removeFirstOrNull() else null } }
    }

    @Test
    fun `a bundle is fetched once, and its progress adds up`() {
        val store = storeIn(place)
        val said = runBlocking { store.fetch(server.source("one"), digestOf(one)).toList() }
        val installed = said.last().installed!!
        assertSame(one, installed.directory)
        assertEquals("one", installed.model)
        assertEquals(FetchStep.INSTALLED, said.last().step)
        assertEquals(one.walk().filter { it.isFile }.sumOf { it.length() }, installed.bytes)
        assertEquals(listOf(installed.bytes, installed.bytes), listOf(said.last().bytesDone, said.last().bytesTotal))
        assertEquals(said.map { it.bytesDone }.sorted(), said.map { it.bytesDone })
        assertEquals(listOf(installed.name), store.installed().map { it.name })
        assertEquals(emptyList<String>(), store.unfinished())
        val count = server.asked.size
        assertEquals(installed.directory, store.fetched(server, "one").directory)
        assertEquals("it was fetched again", count, server.asked.size)
        assertTrue("weights/twice.data is weights/text.data", requests("/one/weights/twice.data").isEmpty())
    }

    @Test
    fun `a file that another bundle has is not fetched`() {
        val store = storeIn(place)
        store.fetched(server, "one")
        assertSame(STORED.resolve("two"), store.fetched(server, "two").directory)
        assertTrue(requests("/two/weights/text.data").isEmpty())
        assertEquals(listOf("one", "two"), store.installed().map { it.model })
        store.delete(digestOf(one))
        assertSame(STORED.resolve("two"), store.installed().single().directory)
    }

    @Test
    fun `a damaged file of another bundle is not taken`() {
        val store = storeIn(place)
        store.fetched(server, "one").directory.let { bundle ->
            for (name in listOf("weights/text.data", "weights/twice.data")) bundle.resolve(name).apply { writeBytes(ByteArray(length().toInt())) }
        }
        assertSame(STORED.resolve("two"), store.fetched(server, "two").directory)
    }

    @Test
    fun `a bundle whose files were damaged is mended`() {
        val store = storeIn(place)
        val bundle = store.fetched(server, "one").directory
        bundle.resolve("tokenizer.json").delete()
        assertTrue(store.installed().isEmpty())
        val before = requests(WEIGHTS).size
        assertSame(one, store.fetched(server, "one").directory)
        assertEquals("what was whole is fetched again", before, requests(WEIGHTS).size)
    }

    @Test
    fun `a fetch goes on where the connection broke off`() {
        faultAt(WEIGHTS, Fault.Cut(100_000), Fault.Cut(70_000))
        assertSame(one, storeIn(place).fetched(server, "one").directory)
        val ranges = requests(WEIGHTS).map { it.headers["range"] }
        assertEquals(listOf(null, "bytes=100000-", "bytes=170000-"), ranges)
        val tag = "\"${sha256(one.resolve("weights/text.data").readBytes()).take(16)}\""
        assertEquals(listOf(null, tag, tag), requests(WEIGHTS).map { it.headers["if-range"] })
    }

    @Test
    fun `what a server may answer to a range`() {
        val answers = listOf(Fault.IgnoresRange, Fault.OtherRange, Fault.Changed, Fault.WrongBytes, Fault.Chunks, Fault.Status(416))
        for ((at, answer) in answers.withIndex()) {
            faultAt(WEIGHTS, Fault.Cut(100_000), answer)
            assertSame(one, storeIn(place.resolve("$at")).fetched(server, "one").directory)
        }
    }

    @Test
    fun `a file that changes on the server begins anew`() {
        val root = folder.newFolder("served").also { one.copyRecursively(it.resolve("one")) }
        FaultyServer(root).use { changing ->
            val weights = root.resolve("one/weights/text.data")
            val right = weights.readBytes()
            weights.writeBytes(ByteArray(right.size) { 7 })
            var count = 0
            changing.fault = { asked ->
                if (asked.path == WEIGHTS && count++ == 1) weights.writeBytes(right)
                if (asked.path == WEIGHTS && count == 1) Fault.Cut(100_000) else null
            }
            assertSame(one, storeIn(place).fetched(changing, "one").directory)
            assertEquals(2, changing.asked.count { it.path == WEIGHTS })
        }
    }

    @Test
    fun `wrong bytes are refused, and never listed`() {
        server.fault = { if (it.path == WEIGHTS) Fault.WrongBytes else null }
        val store = storeIn(place)
        val error = failure<DownloadFailed> { store.fetched(server, "one") }
        assertFalse(error.retryable)
        assertTrue(error.message!!, "is not the file that the manifest describes" in error.message!!)
        assertTrue(store.installed().isEmpty())
        assertEquals(2, requests(WEIGHTS).size)
        server.fault = { null }
        assertSame(one, store.fetched(server, "one").directory)
    }

    @Test
    fun `another manifest than the one asked for is refused`() {
        val store = storeIn(place)
        val error = failure<DownloadFailed> {
            runBlocking { store.fetch(server.source("two"), digestOf(one)).last() }
        }
        assertFalse(error.retryable)
        assertTrue("files were fetched", server.asked.all { it.path == "/two/manifest.json" })
    }

    @Test
    fun `statuses that pass are asked again, others not`() {
        for (code in listOf(408, 429, 500, 503)) {
            faultAt(WEIGHTS, Fault.Status(code), Fault.Status(code, mapOf("Retry-After" to "0")))
            assertSame(one, storeIn(place.resolve("$code")).fetched(server, "one").directory)
        }
        for (code in listOf(401, 403, 404, 410, 206, 304, 101)) {
            server.asked.clear()
            server.fault = { if (it.path == WEIGHTS) Fault.Status(code) else null }
            val error = failure<DownloadFailed> { storeIn(place.resolve("$code")).fetched(server, "one") }
            if (code >= 400) assertTrue(error.message!!, "$code" in error.message!! && !error.retryable)
            if (code >= 400) assertEquals(1, requests(WEIGHTS).size)
        }
    }

    @Test
    fun `a server that stays away is given up, to be asked later`() {
        for (fault in listOf(Fault.Status(503), Fault.Silent, Fault.Cut(10))) {
            server.fault = { if (it.path == WEIGHTS) fault else null }
            val store = storeIn(place.resolve("$fault"))
            assertTrue(failure<DownloadFailed> { store.fetched(server, "one") }.retryable)
            assertEquals(listOf(digestOf(one)), store.unfinished())
            server.fault = { null }
            assertSame(one, store.fetched(server, "one").directory)
        }
        server.fault = { Fault.Status(503, mapOf("Retry-After" to "3600")) }
        server.asked.clear()
        assertTrue(failure<DownloadFailed> { storeIn(place.resolve("later")).fetched(server, "one") }.retryable)
        assertEquals("an hour is not waited for", 1, server.asked.size)
    }

    @Test
    fun `no more than a file's bytes are written of an endless body`() {
        server.fault = { if (it.path == WEIGHTS) Fault.Endless else null }
        assertSame(one, storeIn(place).fetched(server, "one").directory)
        server.fault = { Fault.Endless }
        val error = failure<DownloadFailed> { storeIn(place.resolve("manifest")).fetched(server, "one") }
        assertTrue(error.message!!, "is larger than 16777216 bytes" in error.message!!)
    }

    @Test
    fun `a length that is none of the file's ends the fetch`() {
        for (by in listOf(-1000, 1000)) {
            server.fault = { if (it.path == WEIGHTS) Fault.LengthOff(by) else null }
            val error = failure<DownloadFailed> { storeIn(place).fetched(server, "one") }
            assertTrue(error.message!!, "has ${300_000 + by} bytes, the manifest says 300000" in error.message!!)
        }
    }

    @Test
    fun `redirects are followed to the same scheme alone, and five at most`() {
        FaultyServer(STORED).use { other ->
            server.fault = { Fault.Status(302, mapOf("Location" to other.url + it.path)) }
            val source = BundleSource("${server.url}/one/", mapOf("Authorization" to "Bearer x"), allowHttp = true)
            val found = runBlocking { storeIn(place).fetch(source, digestOf(one)).last().installed!! }
            assertSame(one, found.directory)
            assertTrue(server.asked.all { it.headers["authorization"] == "Bearer x" })
            assertTrue("the token went to another host", other.asked.none { "authorization" in it.headers })
        }
        val refused = mapOf("/one/manifest.json" to "more than 5 times", "https://127.0.0.1/" to "not followed", "file:///etc/passwd" to "not followed")
        for ((location, why) in refused) {
            server.fault = { Fault.Status(307, mapOf("Location" to location)) }
            val error = failure<DownloadFailed> { storeIn(place.resolve("r")).fetched(server, "one") }
            assertTrue(error.message!!, why in error.message!! && !error.retryable)
        }
    }

    @Test
    fun `from https nothing leads to http`() {
        val leads = Transport { url, _ -> Answered(302, mapOf("Location" to url.replace("https", "http"))) }
        val store = BundleStore(place, leads, HASTY) { 1L shl 40 }
        val error = failure<DownloadFailed> { runBlocking { store.fetch(BundleSource("https://x.test/r"), digestOf(one)).last() } }
        assertTrue(error.message!!, "from https to http" in error.message!!)
        for (url in listOf("http://x.test", "ftp://x.test", "https://x.test/a?b", "file:///x", "https://x.test/a b")) {
            assertTrue(url, runCatching { BundleSource(url) }.exceptionOrNull() is IllegalArgumentException)
        }
    }

    @Test
    fun `space is asked for before any file`() {
        val bytes = one.walk().filter { it.isFile && it.name != "manifest.json" }.sumOf { it.length() }
        val error = failure<NoSpace> { storeIn(place, free = bytes - 1).fetched(server, "one") }
        assertEquals(listOf(bytes, bytes - 1), listOf(error.needed, error.free))
        assertEquals(listOf("/one/manifest.json"), server.asked.map { it.path })
        assertSame(one, storeIn(place, free = bytes).fetched(server, "one").directory)
    }

    @Test(timeout = LONG_MILLIS)
    fun `a cancelled fetch ends at once, and leaves what the next one goes on from`() {
        server.fault = { if (it.path == WEIGHTS) Fault.Stalls(100_000) else null }
        val store = storeIn(place)
        val part = { place.walk().filter { it.extension == "part" }.sumOf { it.length() } }
        runBlocking {
            val fetch = launch(Dispatchers.Default) { store.fetch(server.source("one"), digestOf(one)).collect() }
            while (part() < 100_000) delay(5)
            fetch.cancelAndJoin() // which does not wait for the read that stalls: that would take five minutes
        }
        assertEquals(100_000L, part())
        assertTrue(store.installed().isEmpty())
        server.fault = { null }
        assertSame(one, store.fetched(server, "one").directory)
        assertEquals("bytes=100000-", requests(WEIGHTS).last().headers["range"])
    }

    @Test(timeout = LONG_MILLIS)
    fun `several fetches of one bundle are one`() {
        val bundles = runBlocking {
            List(8) { async(Dispatchers.Default) { storeIn(place).fetch(server.source("one"), digestOf(one)).last() } }.awaitAll()
        }
        bundles.forEach { assertSame(one, it.installed!!.directory) }
        assertEquals("each file once", server.asked.map { it.path }.distinct().sorted(), server.asked.map { it.path }.sorted())
    }

    @Test
    fun `names that leave the directory, or are two things, are refused`() {
        for (name in listOf("../x", "/etc/x", "a/../b", "manifest.json", "graph.onnx/x")) {
            val root = folder.newFolder().also { one.copyRecursively(it.resolve("one")) }
            val file = root.resolve("one/manifest.json")
            file.writeText(file.readText().replace("\"newline.bin\":", "\"$name\":"))
            FaultyServer(root).use { hostile ->
                val error = failure<BundleDamaged> {
                    runBlocking { storeIn(place).fetch(hostile.source("one"), digestOf(root.resolve("one"))).last() }
                }
                assertTrue(error.message!!, "not valid" in error.message!!)
            }
        }
        assertEquals(setOf("store"), folder.root.list()!!.filter { !it.startsWith("junit") }.toSet())
    }

    @Test
    fun `what Retry-After says`() {
        val now = java.time.ZonedDateTime.parse("2026-01-02T03:04:05Z")
        assertEquals(120_000L, waitOf("120", now))
        assertEquals(5_000L, waitOf("Fri, 02 Jan 2026 03:04:10 GMT", now))
        assertEquals(0L, waitOf("Fri, 02 Jan 2026 03:04:00 GMT", now))
        for (text in listOf("", "-1", "soon", "9".repeat(30), null)) assertNull(waitOf(text, now))
    }
}

private class Answered(override val status: Int, private val headers: Map<String, String>) : Transport.Response {
    override val body = "".byteInputStream()

    override fun header(name: String): String? = headers[name]

    override fun close() = Unit
}
