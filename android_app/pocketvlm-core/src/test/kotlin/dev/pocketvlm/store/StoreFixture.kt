package dev.pocketvlm.store

import dev.pocketvlm.PocketVlmException
import dev.pocketvlm.bundle.sha256
import dev.pocketvlm.folder
import kotlinx.coroutines.flow.last
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import java.io.File

/** Bundles that `tests/android/stored.py` wrote. */
val STORED: File get() = folder("cases").resolve("store")

/** Minutes, so that only what never ends fails by it. */
const val LONG_MILLIS: Long = 300_000

/** No pauses to speak of. */
internal val HASTY = Retries(most = 3, firstMillis = 1, longestMillis = 50)

internal fun digestOf(bundle: File): String = sha256(bundle.resolve("manifest.json").readBytes())

internal fun storeIn(directory: File, retries: Retries = HASTY, free: Long = 1L shl 40): BundleStore =
    BundleStore(directory, HttpTransport(LONG_MILLIS.toInt(), LONG_MILLIS.toInt()), retries) { free }

internal fun BundleStore.fetched(server: FaultyServer, name: String): InstalledBundle = runBlocking {
    checkNotNull(fetch(server.source(name), digestOf(STORED.resolve(name))).last().installed)
}

internal fun FaultyServer.source(name: String) = BundleSource("$url/$name", allowHttp = true)

/** That a directory has the very files of [bundle]. */
internal fun assertSame(bundle: File, found: File) {
    val names = { root: File -> root.walkTopDown().filter { it.isFile }.map { it.relativeTo(root).path }.sorted().toList() }
    assertEquals(names(bundle), names(found))
    for (name in names(bundle)) assertArrayEquals(name, bundle.resolve(name).readBytes(), found.resolve(name).readBytes())
}

/** The typed error with which something ends; anything else is a fault of the test or the code. */
internal inline fun <reified E : PocketVlmException> failure(work: () -> Unit): E {
    try {
        work()
    } catch (error: PocketVlmException) {
        val line = checkNotNull(error.message)
        check('\n' !in line && line.length < 500) { "not one line: $line" }
        return error as? E ?: throw AssertionError("another error: $error", error)
    }
    throw AssertionError("it did not fail")
}
