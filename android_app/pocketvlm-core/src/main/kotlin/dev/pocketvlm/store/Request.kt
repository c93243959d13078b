package dev.pocketvlm.store

import dev.pocketvlm.bundle.oneLine
import dev.pocketvlm.bundle.oneLineOf
import java.io.IOException
import java.net.MalformedURLException
import java.net.URL
import java.time.DateTimeException
import java.time.Duration
import java.time.ZonedDateTime
import java.time.format.DateTimeFormatter.RFC_1123_DATE_TIME
import javax.net.ssl.SSLHandshakeException
import javax.net.ssl.SSLPeerUnverifiedException

private const val MAX_REDIRECTS = 5
private val REDIRECTS = setOf(301, 302, 303, 307, 308)

/** Too early, too many, and servers that are overloaded or being restarted. */
private val PASSING = setOf(408, 425, 429, 500, 502, 503, 504)

/** A range that begins behind the end of what the server has. */
internal const val UNSATISFIABLE: Int = 416

/** Why one request brought nothing; [again]: another may, after [waitMillis] where the server has said so. */
internal class Failure(
    message: String,
    val again: Boolean,
    val waitMillis: Long? = null,
    val status: Int? = null,
    cause: Throwable? = null,
) : Exception(message, cause)

/**
 * The answer to a GET, behind redirects, which keep the scheme; the source's own headers are for its host alone.
 *
 * @throws Failure no answer with one of the statuses [wanted]
 */
internal suspend fun request(
    transport: Transport,
    source: BundleSource,
    url: String,
    own: Map<String, String>,
    wanted: Set<Int>,
): Transport.Response {
    var at = URL(url)
    val origin = originOf(at)
    repeat(MAX_REDIRECTS + 1) {
        val headers = if (originOf(at) == origin) source.headers + own else own
        val response = answer(transport, at, headers + ("Accept-Encoding" to "identity"))
        if (response.status in wanted) {
            refuseEncoded(response)
            return response
        }
        val status = response.status
        val location = response.header("Location")
        val wait = waitOf(response.header("Retry-After"))
        abandon(response)
        if (status !in REDIRECTS || location == null) {
            val again = status in PASSING || status == UNSATISFIABLE
            throw Failure("the server answers $status for ${shown(url)}", again, wait, status)
        }
        at = redirected(at, location)
    }
    throw Failure("${shown(url)} is redirected more than $MAX_REDIRECTS times", again = false)
}

private suspend fun answer(transport: Transport, at: URL, headers: Map<String, String>): Transport.Response = try {
    blocking { transport.get(at.toString(), headers) }
} catch (error: IOException) {
    // A certificate that is refused now will be refused in a second; everything else may be the network.
    val again = error !is SSLHandshakeException && error !is SSLPeerUnverifiedException
    throw Failure("${at.host} gives no answer (${oneLineOf(error)})", again, cause = error)
} catch (error: IllegalArgumentException) {
    throw Failure("${shown(at.toString())} is no address (${oneLineOf(error)})", again = false, cause = error)
}

private fun refuseEncoded(response: Transport.Response) {
    val encoding = response.header("Content-Encoding") ?: return
    if (encoding.equals("identity", ignoreCase = true)) return
    abandon(response)
    throw Failure("the server sends '${encoding.take(40)}' and not the file's own bytes", again = false)
}

private fun redirected(from: URL, location: String): URL {
    val to = try {
        URL(from, location)
    } catch (error: MalformedURLException) {
        throw Failure("${from.host} redirects to what is no address", again = false, cause = error)
    }
    if (to.protocol != from.protocol) {
        throw Failure("${from.host} redirects from ${from.protocol} to ${to.protocol}, which is not followed", again = false)
    }
    return to
}

private fun originOf(url: URL) = Triple(url.protocol, url.host.lowercase(), if (url.port < 0) url.defaultPort else url.port)

/** Milliseconds that a Retry-After asks for, in seconds or as a date; null where it says nothing that is understood. */
internal fun waitOf(header: String?, now: ZonedDateTime = ZonedDateTime.now()): Long? {
    val text = header?.trim() ?: return null
    if (text.isNotEmpty() && text.length <= 9 && text.all { it in '0'..'9' }) return text.toLong() * 1000
    return try {
        maxOf(0, Duration.between(now, ZonedDateTime.parse(text, RFC_1123_DATE_TIME)).toMillis())
    } catch (_: DateTimeException) {
        null
    } catch (_: ArithmeticException) {
        null
    }
}

/** An address as an error may show it: a token in it would be behind the question mark. */
internal fun shown(url: String): String = oneLine(url.substringBefore('?'), 160)
