package dev.pocketvlm.store

import java.io.ByteArrayInputStream
import java.io.Closeable
import java.io.IOException
import java.io.InputStream
import java.net.HttpURLConnection
import java.net.URL

/** How a [BundleStore] asks a server: [HttpTransport], or an app's own HTTP library. Calls come from several threads. */
public fun interface Transport {
    /**
     * Asks for [url] by GET and waits for the status and headers. Redirects are not followed, nothing is cached, and no
     * encoding is taken but the file's own bytes: the store looks after all of that.
     *
     * @throws IOException no answer came
     */
    @Throws(IOException::class)
    public fun get(url: String, headers: Map<String, String>): Response

    /** What a server answers. [close] ends the connection, also while another thread reads [body]. */
    public interface Response : Closeable {
        public val status: Int

        /** The bytes that follow; read only where [status] is 200 or 206. */
        public val body: InputStream

        /** The header's value, whatever the case of its name; null where there is none. */
        public fun header(name: String): String?
    }
}

/**
 * Java's own HTTP client, which every Android has.
 *
 * @property connectTimeoutMillis most milliseconds until a connection stands
 * @property readTimeoutMillis most milliseconds without a byte
 */
public class HttpTransport(
    public val connectTimeoutMillis: Int = 15_000,
    public val readTimeoutMillis: Int = 30_000,
) : Transport {
    override fun get(url: String, headers: Map<String, String>): Transport.Response {
        val connection = URL(url).openConnection() as? HttpURLConnection ?: throw IOException("no HTTP address")
        connection.instanceFollowRedirects = false
        connection.useCaches = false
        connection.connectTimeout = connectTimeoutMillis
        connection.readTimeout = readTimeoutMillis
        for ((name, value) in headers) connection.setRequestProperty(name, value)
        return try {
            HttpResponse(connection, connection.responseCode)
        } catch (error: IOException) {
            connection.disconnect()
            throw error
        }
    }
}

private class HttpResponse(private val connection: HttpURLConnection, override val status: Int) : Transport.Response {
    /** Java throws for the body of an error, and has none where the answer was no HTTP. */
    override val body: InputStream =
        if (status in 200..299) connection.inputStream else ByteArrayInputStream(ByteArray(0))

    override fun header(name: String): String? = connection.getHeaderField(name)

    override fun close() = connection.disconnect()
}
