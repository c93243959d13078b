package dev.pocketvlm.android

import android.os.Build
import dev.pocketvlm.BundleInfo
import dev.pocketvlm.ONNXRUNTIME_VERSION
import dev.pocketvlm.VERSION
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.security.MessageDigest

/** Of a record, bytes. */
private const val MAX_RECORD = 4096L

/** The state of one bundle's [engine] in [directory]. Another bundle, engine, library or system image starts from nothing. */
internal class ProbeRecord(private val directory: File, info: BundleInfo, engine: String) {
    private val file = File(directory, keyOf(listOf(info.sha256, engine, VERSION, ONNXRUNTIME_VERSION, Build.FINGERPRINT)))

    /** A record that cannot be read says nothing. */
    fun read(): ProbeState = try {
        if (file.length() > MAX_RECORD) ProbeState.Unknown() else decodedProbe(file.readText())
    } catch (error: IOException) {
        ProbeState.Unknown()
    }

    /**
     * Whole or not at all, and on the disk before this returns: what comes next may take the process, or the phone, down.
     *
     * @throws IOException it cannot be written
     */
    fun write(state: ProbeState) {
        directory.mkdirs()
        val part = File(directory, "${file.name}.part")
        FileOutputStream(part).use { output ->
            output.write(state.encoded().toByteArray())
            output.fd.sync()
        }
        if (!part.renameTo(file)) throw IOException("$part cannot be renamed")
    }
}

private fun keyOf(parts: List<String>): String =
    MessageDigest.getInstance("SHA-256").digest(parts.joinToString("\n").toByteArray())
        .joinToString("") { "%02x".format(it.toInt() and 255) }
