package dev.pocketvlm.store

import dev.pocketvlm.bundle.sha256
import java.io.Closeable
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.io.OutputStream
import java.net.InetAddress
import java.net.ServerSocket
import java.net.Socket
import java.util.concurrent.CopyOnWriteArrayList
import kotlin.concurrent.thread

/** What a client asked for; header names in lower case. */
class Asked(val path: String, val headers: Map<String, String>)

/** What a server may do wrong. */
sealed class Fault {
    /** Ends the connection after so many bytes of the body; the headers promise all of it. */
    class Cut(val after: Int) : Fault()

    /** Says that the body has so many bytes more or fewer than it has. */
    class LengthOff(val by: Int) : Fault()

    /** Answers with the whole file where a range was asked for. */
    object IgnoresRange : Fault()

    /** Answers with a range that begins elsewhere than asked. */
    object OtherRange : Fault()

    /** Sends other bytes, as many as the file has. */
    object WrongBytes : Fault()

    /** Takes whatever If-Range says, and answers with a range of another version, which has another ETag. */
    object Changed : Fault()

    class Status(val code: Int, val headers: Map<String, String> = emptyMap()) : Fault()

    /** No length and no end, the file's bytes first. */
    object Endless : Fault()

    /** Nothing more behind so many bytes, and the connection stays. */
    class Stalls(val after: Int) : Fault()

    /** Ends the connection without an answer. */
    object Silent : Fault()

    /** Answers with something that is no HTTP. */
    object NotHttp : Fault()

    /** Sends the body in chunks, without its length. */
    object Chunks : Fault()
}

/**
 * Serves the files below [root] on 127.0.0.1 with ranges and ETags, and does what [fault] says of a request. One request
 * a connection.
 */
class FaultyServer(private val root: File, @Volatile var fault: (Asked) -> Fault? = { null }) : Closeable {
    val asked: MutableList<Asked> = CopyOnWriteArrayList()
    private val socket = ServerSocket(0, 50, InetAddress.getByName("127.0.0.1"))
    private val open: MutableSet<Socket> = java.util.concurrent.ConcurrentHashMap.newKeySet()
    val url: String = "http://127.0.0.1:${socket.localPort}"

    init {
        thread(isDaemon = true) {
            try {
                while (true) serve(socket.accept())
            } catch (_: IOException) {
                // closed
            }
        }
    }

    override fun close() {
        socket.close()
        open.forEach(Socket::close)
    }

    private fun serve(connection: Socket) {
        open.add(connection)
        thread(isDaemon = true) {
            try {
                val request = read(connection.getInputStream())
                if (request != null) {
                    asked.add(request)
                    answer(request, connection.getOutputStream(), fault(request))
                }
            } catch (_: IOException) {
                // the client has gone
            } finally {
                connection.close()
                open.remove(connection)
            }
        }
    }

    private fun read(from: InputStream): Asked? {
        val lines = ArrayList<String>()
        val line = StringBuilder()
        while (true) {
            val byte = from.read()
            if (byte < 0) return null
            if (byte == '\r'.code) continue
            if (byte != '\n'.code) {
                line.append(byte.toChar())
                continue
            }
            if (line.isEmpty()) break
            lines.add(line.toString())
            line.setLength(0)
        }
        val headers = lines.drop(1).associate { it.substringBefore(':').lowercase() to it.substringAfter(':').trim() }
        return Asked(lines[0].split(' ')[1], headers)
    }

    private fun answer(request: Asked, to: OutputStream, fault: Fault?) {
        val file = root.resolve(request.path.trimStart('/'))
        when {
            fault is Fault.Silent -> return
            fault is Fault.NotHttp -> to.write("SSH-2.0-what\r\n\r\n".toByteArray())
            fault is Fault.Status -> head(to, fault.code, fault.headers + ("Content-Length" to "0"))
            !file.isFile -> head(to, 404, mapOf("Content-Length" to "0"))
            else -> content(request, file.readBytes(), to, fault)
        }
    }

    private fun content(request: Asked, whole: ByteArray, to: OutputStream, fault: Fault?) {
        val tag = "\"${sha256(whole).take(16)}\""
        val from = request.headers["range"]?.let { Regex("bytes=([0-9]+)-").matchEntire(it)!!.groupValues[1].toInt() }
        val condition = request.headers["if-range"]
        val changed = fault is Fault.Changed
        val takesRange = from != null && fault !is Fault.IgnoresRange && (condition == null || condition == tag || changed)
        if (takesRange && from!! >= whole.size) return head(to, 416, mapOf("Content-Range" to "bytes */${whole.size}"))
        val start = if (takesRange) from!! else 0
        val shift = if (fault is Fault.OtherRange && takesRange && start > 0) 1 else 0
        val body = whole.copyOfRange(start - shift, whole.size)
        if (fault is Fault.WrongBytes || changed) for (at in body.indices) body[at] = (body[at] + 1).toByte()
        val headers = linkedMapOf("ETag" to if (changed) "\"another\"" else tag, "Accept-Ranges" to "bytes")
        if (takesRange) headers["Content-Range"] = "bytes ${start - shift}-${whole.size - 1}/${whole.size}"
        if (fault is Fault.Chunks) headers["Transfer-Encoding"] = "chunked"
        else if (fault !is Fault.Endless) headers["Content-Length"] = "${body.size + ((fault as? Fault.LengthOff)?.by ?: 0)}"
        head(to, if (takesRange) 206 else 200, headers)
        send(body, to, fault)
    }

    private fun send(body: ByteArray, to: OutputStream, fault: Fault?) {
        when (fault) {
            is Fault.Cut -> to.write(body, 0, minOf(fault.after, body.size))
            is Fault.Chunks -> {
                for (part in body.toList().chunked(7000)) {
                    to.write("${part.size.toString(16)}\r\n".toByteArray() + part.toByteArray() + "\r\n".toByteArray())
                }
                to.write("0\r\n\r\n".toByteArray())
            }
            is Fault.Endless -> {
                to.write(body)
                while (true) to.write(ByteArray(1 shl 16))
            }
            is Fault.Stalls -> {
                to.write(body, 0, minOf(fault.after, body.size))
                to.flush()
                Thread.sleep(Long.MAX_VALUE)
            }
            else -> to.write(body)
        }
        to.flush()
    }

    private fun head(to: OutputStream, status: Int, headers: Map<String, String>) {
        val lines = listOf("HTTP/1.1 $status x", "Connection: close") + headers.map { "${it.key}: ${it.value}" }
        to.write((lines.joinToString("\r\n") + "\r\n\r\n").toByteArray())
    }
}
