package dev.pocketvlm.runtime

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtSession
import dev.pocketvlm.Backend
import dev.pocketvlm.ONNXRUNTIME_VERSION
import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.EngineFailed
import dev.pocketvlm.PocketVlmException.NotPortable
import dev.pocketvlm.bundle.Bundle
import dev.pocketvlm.bundle.Manifest
import dev.pocketvlm.bundle.oneLineOf
import java.nio.FloatBuffer

private const val TELEMETRY = "ORT_DISABLE_TELEMETRY"
private val X86 = setOf("amd64", "x86_64")

/** What all sessions of a process share. */
internal class OnnxRuntime(val bundle: Bundle, val threads: Int, private val skipped: Map<String, String> = emptyMap()) {
    val environment: OrtEnvironment = quietEnvironment()
    private val parts = bundle.manifest.engines[ONNX]
        ?: throw NotPortable("the bundle has no ONNX graphs: export it with --backend onnx")

    val backend: Backend get() = Backend(ONNX, skipped, "ONNX Runtime", ONNXRUNTIME_VERSION, "CPU", threads)

    /** @throws BundleDamaged the part is missing, or does not load */
    fun open(name: String, configure: OrtSession.SessionOptions.() -> Unit = {}): OrtSession {
        val file = parts[name]?.file ?: throw BundleDamaged("the bundle has no ONNX part $name: export it again")
        return OrtSession.SessionOptions().use { options ->
            // A gather has nothing to share out, and patches are embedded beside the encoder.
            options.setIntraOpNumThreads(if (name == "token_embedding" || name == "patch_embedding") 1 else threads)
            options.setInterOpNumThreads(1)
            options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL)
            // Without VNNI, sums of the vision encoder saturate otherwise.
            if (System.getProperty("os.arch") in X86) options.addConfigEntry("session.x64quantprecision", "1")
            options.configure()
            try {
                environment.createSession(bundle.path(file).toString(), options)
            } catch (error: OrtException) {
                throw BundleDamaged("$file does not load: ${oneLineOf(error)}", error)
            }
        }
    }

    fun tensor(values: FloatBuffer, vararg shape: Int): OnnxTensor =
        OnnxTensor.createTensor(environment, values, LongArray(shape.size) { shape[it].toLong() })
}

/** A run that was terminated ends with an error like any other: what was asked for tells the two apart. */
internal fun <T> running(name: String, interrupt: Interrupt, run: () -> T): T = try {
    if (interrupt.reason != null) throw Cancelled()
    run()
} catch (error: OrtException) {
    if (interrupt.reason != null) throw Cancelled()
    throw EngineFailed("$name fails: ${oneLineOf(error)}", error)
}

/** The parts of a loadable bundle that this device would hold in memory, bytes, with one conversation's KV cache. */
internal fun neededBytes(bundle: Bundle): Long {
    val manifest = bundle.manifest
    val files = manifest.engines[ONNX].orEmpty().values.flatMap { listOf(it.file) + it.data }.toSet()
    return files.sumOf { manifest.files.getValue(it).bytes } + conversationBytes(manifest) + RUNTIME_BYTES
}

/** Of one conversation: its KV cache and the copies of its state. */
private fun conversationBytes(manifest: Manifest): Long = kvBytes(manifest) + SNAPSHOTS * stateBytes(manifest)

/** ONNX Runtime, the tokenizer, activations of a chunk: what a bundle of nothing would take. */
private const val RUNTIME_BYTES = 150L shl 20

/** ONNX Runtime without its telemetry, which writes a device id into the home directory unless the environment says no. */
private fun quietEnvironment(): OrtEnvironment {
    if (System.getenv(TELEMETRY) != "1") {
        throw EngineFailed("ONNX Runtime's telemetry is on: set $TELEMETRY=1 in the environment")
    }
    val environment = OrtEnvironment.getEnvironment(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL, "pocketvlm")
    environment.setTelemetry(false)
    return environment
}
