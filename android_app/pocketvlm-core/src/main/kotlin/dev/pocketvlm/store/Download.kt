package dev.pocketvlm.store

import dev.pocketvlm.PocketVlmException.DownloadFailed
import dev.pocketvlm.bundle.FileEntry
import dev.pocketvlm.bundle.MANIFEST
import dev.pocketvlm.bundle.MAX_MANIFEST
import dev.pocketvlm.bundle.fileSha256
import dev.pocketvlm.bundle.oneLine
import dev.pocketvlm.bundle.oneLineOf
import dev.pocketvlm.bundle.sha256
import kotlinx.coroutines.delay
import java.io.ByteArrayOutputStream
import java.io.IOException
import kotlin.random.Random

private const val BLOCK = 1 shl 16

/** Bytes that a connection has to bring for the store not to count it as a failure when it breaks. */
private const val GAIN = 1L shl 20

/** Of a file that is whole and not the one that the manifest describes: how often it is fetched. */
private const val MISMATCHES = 2

/**
 * How often and when a request is made anew.
 *
 * @property most failures one after the other, without a MiB between them
 * @property firstMillis the first pause; each is twice the one before, up to [longestMillis], less up to a half by chance
 */
internal class Retries(val most: Int = 5, val firstMillis: Long = 500, val longestMillis: Long = 60_000)

/** Told what happens: what it is at, and how many bytes of this file are there. */
internal typealias Told = suspend (FetchStep, Long) -> Unit

/** Asks one source for files, again where that may help. */
internal class Download(
    private val transport: Transport,
    private val source: BundleSource,
    private val retries: Retries,
) {
    /**
     * The manifest's text.
     *
     * @throws DownloadFailed it cannot be had, or its SHA-256 is not [digest]
     */
    suspend fun manifest(digest: String, told: Told): ByteArray {
        val failures = Failures(told)
        var mismatches = 0
        while (true) {
            try {
                val text = whole(url(MANIFEST))
                if (sha256(text) == digest) return text
                mismatches++
                val other = "${shown(url(MANIFEST))} is not the manifest whose SHA-256 was given"
                failures.count(Failure(other, again = mismatches < MISMATCHES))
            } catch (failure: Failure) {
                failures.count(failure)
            }
        }
    }

    /**
     * Fetches a file into its part and checks it.
     *
     * @throws DownloadFailed it cannot be had; what came of it stays, unless it is wrong
     */
    suspend fun file(name: String, entry: FileEntry, part: Part, told: Told) {
        val failures = Failures(told)
        var best = part.length
        var mismatches = 0
        while (true) {
            try {
                if (part.length > entry.bytes) part.restart()
                if (part.length < entry.bytes || entry.bytes == 0L) fetch(url(name), entry, part, told)
                told(FetchStep.CHECK, entry.bytes)
                if (blocking { fileSha256(part.file) } == entry.sha256) return
                part.restart()
                mismatches++
                val wrong = "${shown(url(name))} is not the file that the manifest describes"
                failures.count(Failure(wrong, again = mismatches < MISMATCHES))
            } catch (failure: Failure) {
                if (part.length >= best + GAIN) {
                    failures.forget()
                    best = part.length // bytes that are fetched again, and again, are no gain
                }
                failures.count(failure)
            }
        }
    }

    /** One request for what is missing of a file: all of it is there afterwards, or a failure says why not. */
    private suspend fun fetch(url: String, entry: FileEntry, part: Part, told: Told) {
        val have = part.length
        val tag = part.tag
        val headers = HashMap<String, String>()
        if (have > 0) {
            headers["Range"] = "bytes=$have-"
            if (tag != null) headers["If-Range"] = tag
        }
        val response = try {
            request(transport, source, url, headers, setOf(200, 206))
        } catch (failure: Failure) {
            if (failure.status == UNSATISFIABLE) part.restart() // the server's file ends before
            throw failure
        }
        try {
            begin(url, response, entry, part)
            receive(url, response, entry, part, told)
        } finally {
            // The connection has to go also where the caller is cancelled, who does not wait for it.
            abandon(response)
        }
    }

    /** Takes what the answer says of itself: which part of which file it is. */
    private fun begin(url: String, response: Transport.Response, entry: FileEntry, part: Part) {
        val tag = response.header("ETag")?.trim()?.takeIf { STRONG_TAG.matches(it) && it.length <= MAX_TAG }
        if (response.status == 206) {
            val range = CONTENT_RANGE.matchEntire(response.header("Content-Range").orEmpty().trim())
            val (from, total) = range?.destructured ?: anew(url, part)
            if (total != "*" && total != entry.bytes.toString()) throw otherSize(url, total, entry)
            val known = part.tag
            if (from != part.length.toString() || (tag != null && known != null && tag != known)) anew(url, part)
            return
        }
        val length = response.header("Content-Length")?.trim()
        if (length != null && length != entry.bytes.toString()) throw otherSize(url, length, entry)
        part.restart()
        part.tag = tag
    }

    private fun anew(url: String, part: Part): Nothing {
        part.restart()
        throw Failure("the server answers with another part or version of ${shown(url)} than was asked for", again = true)
    }

    private fun otherSize(url: String, said: String, entry: FileEntry): Failure {
        val size = oneLine(said, 20)
        return Failure("${shown(url)} has $size bytes, the manifest says ${entry.bytes}", again = false)
    }

    /** Appends to the part until it has all its bytes; what the server sends beyond is not read. */
    private suspend fun receive(url: String, response: Transport.Response, entry: FileEntry, part: Part, told: Told) {
        val block = ByteArray(BLOCK)
        var have = part.length
        part.append().use { file ->
            while (have < entry.bytes) {
                val most = minOf(BLOCK.toLong(), entry.bytes - have).toInt()
                val count = read(response, block, most)
                if (count < 0) throw Failure("${shown(url)} broke off after $have of ${entry.bytes} bytes", again = true)
                file.write(block, 0, count)
                have += count
                told(FetchStep.FILES, have)
            }
        }
    }

    private suspend fun whole(url: String): ByteArray {
        val response = request(transport, source, url, emptyMap(), setOf(200))
        try {
            val text = ByteArrayOutputStream()
            val block = ByteArray(BLOCK)
            while (true) {
                val count = read(response, block, BLOCK)
                if (count < 0) {
                    val said = response.header("Content-Length")?.trim() ?: return text.toByteArray()
                    if (said == text.size().toString()) return text.toByteArray()
                    throw Failure("${shown(url)} broke off after ${text.size()} bytes", again = true)
                }
                text.write(block, 0, count)
                if (text.size() > MAX_MANIFEST) throw Failure("${shown(url)} is larger than $MAX_MANIFEST bytes", again = false)
            }
        } finally {
            abandon(response)
        }
    }

    private fun url(name: String) = "${source.url}/$name"

    /** Failures that follow one another: how many there were decides whether the next one is waited for. */
    private inner class Failures(private val told: Told) {
        private var count = 0

        fun forget() {
            count = 0
        }

        /** Waits before the next request, or gives up. */
        suspend fun count(failure: Failure) {
            count++
            val wait = pause(failure.waitMillis)
            if (!failure.again || count > retries.most || wait > retries.longestMillis) {
                throw DownloadFailed(failure.message.orEmpty(), failure.again, failure.cause ?: failure)
            }
            told(FetchStep.RETRY, -1)
            delay(wait)
        }

        private fun pause(said: Long?): Long {
            val doubled = minOf(retries.longestMillis, retries.firstMillis shl minOf(count - 1, 20))
            // Phones that lost one server at once do not come back at once.
            return said ?: (doubled - (doubled * Random.nextDouble() / 2).toLong())
        }
    }
}

private val CONTENT_RANGE = Regex("bytes ([0-9]+)-[0-9]+/([0-9]+|\\*)")

/** A weak one, W/"...", says nothing about bytes. */
private val STRONG_TAG = Regex("\"[\\x21\\x23-\\x7e]*\"")

private suspend fun read(response: Transport.Response, block: ByteArray, most: Int): Int = try {
    blocking(abandoned = response::close) { response.body.read(block, 0, most) }
} catch (error: IOException) {
    throw Failure("the connection broke off (${oneLineOf(error)})", again = true, cause = error)
}
