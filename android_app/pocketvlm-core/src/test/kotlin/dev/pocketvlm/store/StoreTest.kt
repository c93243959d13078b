package dev.pocketvlm.store

import dev.pocketvlm.PocketVlmException
import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.NoSpace
import dev.pocketvlm.bundle.openBundle
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.util.concurrent.atomic.AtomicBoolean
import kotlin.concurrent.thread
import kotlin.random.Random

private const val ROUNDS = 25

/** What holds whatever a server does, and bundles that come another way. */
class StoreTest {
    @get:Rule
    val folder = TemporaryFolder()
    private val place: File get() = folder.root.resolve("store")
    private val one = STORED.resolve("one")

    @Test(timeout = LONG_MILLIS)
    fun `whatever a server does, a bundle is listed whole or not at all, and the next fetch succeeds`() {
        val random = Random(5)
        var failed = 0
        FaultyServer(STORED).use { server ->
            repeat(ROUNDS) { round ->
                val directory = place.resolve("$round")
                // Short, since some faults are connections that stall; the last fetch has all the time it needs.
                val hasty = BundleStore(directory, HttpTransport(60_000, 50), HASTY) { 1L shl 40 }
                server.fault = { if (random.nextInt(3) == 0) drawn(random) else null }
                watched(directory) {
                    try {
                        assertSame(one, hasty.fetched(server, "one").directory)
                    } catch (error: PocketVlmException) {
                        failed++
                    }
                    server.fault = { null }
                    assertSame(one, storeIn(directory).fetched(server, "one").directory)
                }
                directory.deleteRecursively()
            }
        }
        assertTrue("$failed of $ROUNDS failed: the faults are too mild or too hard", failed in ROUNDS / 8..ROUNDS - ROUNDS / 8)
    }

    private fun drawn(random: Random): Fault = synchronized(random) {
        when (random.nextInt(12)) {
            0, 1, 2 -> Fault.Cut(random.nextInt(300_000))
            3 -> Fault.LengthOff(random.nextInt(-100, 100))
            4 -> Fault.IgnoresRange
            5 -> Fault.OtherRange
            6 -> Fault.WrongBytes
            7 -> Fault.Changed
            8 -> Fault.Status(listOf(302, 404, 416, 429, 500, 503).random(random))
            9 -> Fault.Endless
            10 -> if (random.nextBoolean()) Fault.Silent else Fault.NotHttp
            else -> Fault.Stalls(random.nextInt(100_000))
        }
    }

    /** Looks at what the store lists all the while. */
    private fun watched(directory: File, work: () -> Unit) {
        val done = AtomicBoolean()
        var fault: Throwable? = null
        val watcher = thread {
            try {
                while (!done.get()) {
                    for (bundle in storeIn(directory).installed()) openBundle(bundle.directory, verify = true)
                    Thread.sleep(1) // others need the processor as well
                }
            } catch (error: Throwable) {
                fault = error
            }
        }
        try {
            work()
        } finally {
            done.set(true)
            watcher.join()
        }
        fault?.let { throw AssertionError("a bundle was listed that is not whole", it) }
    }

    @Test
    fun `what is not whole is not listed`() {
        val store = storeIn(place)
        val whole = place.resolve(digestOf(one))
        val damages = listOf<(File) -> Unit>(
            {}, // none: listed
            { it.resolve("weights/text.data").delete() },
            { it.resolve("weights/text.data").appendText("x") },
            { it.resolve("manifest.json").appendText(" ") },
            { it.resolve("manifest.json").delete() },
            { it.renameTo(place.resolve("0".repeat(64))) },
            { it.renameTo(place.resolve("one")) },
            { it.renameTo(place.resolve(".partial-${digestOf(one)}")) },
        )
        val listed = damages.map { damage ->
            place.deleteRecursively()
            one.copyRecursively(whole)
            damage(whole)
            store.installed().size
        }
        assertEquals(listOf(1) + List(damages.size - 1) { 0 }, listed)
    }

    @Test
    fun `a bundle is put together of parts`() {
        val names = one.walk().filter { it.isFile }.map { it.relativeTo(one).path }.toList()
        val parts = List(3) { folder.newFolder("part$it") }
        for ((at, name) in names.withIndex()) one.resolve(name).copyTo(parts[at % 3].resolve(name))
        val store = storeIn(place)
        val bundle = runBlocking { store.assemble(parts, digestOf(one)) }
        assertSame(one, bundle.directory)
        assertEquals(listOf(bundle.name), store.installed().map { it.name })
        parts.forEach { it.deleteRecursively() }
        assertSame(one, bundle.directory)
        val streams = PartSource { name -> one.resolve(name).takeIf { it.isFile }?.inputStream() }
        assertSame(one, runBlocking { storeIn(place.resolve("streams")).assemble(streams, digestOf(one)) }.directory)
    }

    @Test
    fun `parts that are missing or not right are refused`() {
        val store = storeIn(place)
        val missing = failure<BundleDamaged> { runBlocking { store.assemble(listOf(folder.newFolder()), digestOf(one)) } }
        assertEquals("no part has the manifest whose SHA-256 was given", missing.message)
        for (content in listOf<ByteArray?>(null, ByteArray(300_000), ByteArray(299_999), ByteArray(300_001))) {
            val part = folder.newFolder().also { one.copyRecursively(it, overwrite = true) }
            for (file in listOf("weights/text.data", "weights/twice.data")) {
                if (content == null) part.resolve(file).delete() else part.resolve(file).writeBytes(content)
            }
            val sources = listOf<suspend () -> Unit>(
                { store.assemble(listOf(part), digestOf(one)) },
                { store.assemble({ part.resolve(it).takeIf(File::isFile)?.inputStream() }, digestOf(one)) },
            )
            for (source in sources) {
                val error = failure<BundleDamaged> { runBlocking { source() } }
                assertEquals("no part has the weights/text.data that the manifest describes", error.message)
            }
        }
        failure<NoSpace> { runBlocking { storeIn(place, free = 1000).assemble(listOf(one), digestOf(one)) } }
        assertTrue(store.installed().isEmpty())
        assertSame(one, runBlocking { store.assemble(listOf(one), digestOf(one)) }.directory)
    }

    @Test
    fun `a bundle is deleted whole, and so is what a fetch left`() {
        val store = storeIn(place)
        val name = digestOf(one)
        store.delete(name) // nothing is there yet
        runBlocking { store.assemble(listOf(one), name) }
        store.delete(name)
        assertTrue(store.installed().isEmpty())
        one.copyRecursively(place.resolve(".partial-$name/bundle"))
        assertEquals(listOf(name), store.unfinished())
        store.delete(name)
        assertEquals(listOf(".lock-$name"), place.list()!!.toList())
        for (wrong in listOf("", "..", "../x", name.dropLast(1), name.uppercase(), ".lock-$name")) {
            assertTrue(wrong, runCatching { store.delete(wrong) }.exceptionOrNull() is IllegalArgumentException)
        }
    }

    @Test
    fun `what a running fetch has so far is not deleted`() {
        val store = storeIn(place)
        val name = digestOf(one)
        place.resolve(".partial-$name/bundle").mkdirs()
        runBlocking {
            locked(place.resolve(".lock-$name").toPath()) { store.delete(name) }
        }
        assertEquals(listOf(name), store.unfinished())
        store.delete(name)
        assertTrue(store.unfinished().isEmpty())
    }
}
