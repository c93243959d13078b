package dev.pocketvlm.sample

import com.sun.net.httpserver.HttpExchange
import com.sun.net.httpserver.HttpServer
import java.io.File
import java.net.InetSocketAddress
import java.security.MessageDigest
import java.util.concurrent.CountDownLatch
import java.util.concurrent.Executors
import java.util.concurrent.TimeUnit

/** Gives the bundle's files, from any byte on; the largest one half at first, the rest when [goOn] is called. */
internal class Server(private val bundle: File) : AutoCloseable {
    private val goesOn = CountDownLatch(1)
    private val largest = checkNotNull(bundle.walk().filter { it.isFile }.maxByOrNull { it.length() })
    private val threads = Executors.newCachedThreadPool()
    private val server = HttpServer.create(InetSocketAddress("127.0.0.1", 0), 0).apply {
        executor = threads
        createContext("/bundle/") { exchange -> exchange.use { answer(it) } }
        start()
    }

    /** Bytes of the largest file that come before [goOn]. */
    val half: Long = largest.length() / 2

    /** Bytes that were asked to be left out, since they were there. */
    @Volatile
    var skipped = 0L
        private set

    val address = "http://127.0.0.1:${server.address.port}/bundle"
    val digest: String = MessageDigest.getInstance("SHA-256").digest(bundle.resolve("manifest.json").readBytes())
        .joinToString("") { "%02x".format(it) }

    fun goOn() = goesOn.countDown()

    override fun close() {
        goOn()
        server.stop(0)
        threads.shutdown()
    }

    private fun answer(exchange: HttpExchange) {
        val file = bundle.resolve(exchange.requestURI.path.removePrefix("/bundle/"))
        val from = exchange.requestHeaders.getFirst("Range")?.removeSurrounding("bytes=", "-")?.toInt() ?: 0
        val bytes = file.readBytes()
        skipped += from
        exchange.responseHeaders["ETag"] = "\"${file.name}\""
        exchange.responseHeaders["Content-Range"] = "bytes $from-${bytes.size - 1}/${bytes.size}"
        exchange.sendResponseHeaders(if (from > 0) 206 else 200, bytes.size.toLong() - from)
        val stops = file == largest && goesOn.count > 0
        exchange.responseBody.write(bytes, from, (if (stops) half.toInt() else bytes.size) - from)
        exchange.responseBody.flush()
        if (stops) goesOn.await(5, TimeUnit.MINUTES) // and ends there: who waited for the rest has gone
    }

    private inline fun HttpExchange.use(block: (HttpExchange) -> Unit) = try {
        block(this)
    } finally {
        close()
    }
}
