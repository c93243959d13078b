package dev.pocketvlm.runtime

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtSession
import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.EngineFailed
import dev.pocketvlm.PocketVlmException.NotPortable
import dev.pocketvlm.bundle.Bundle
import dev.pocketvlm.bundle.oneLine
import dev.pocketvlm.images.Tiles
import dev.pocketvlm.images.normalize
import java.nio.FloatBuffer

private const val TELEMETRY = "ORT_DISABLE_TELEMETRY"
private val X86 = setOf("amd64", "x86_64")
private val TEXT_PARTS = listOf("token_embedding", "text_decoder")
private val VISION_PARTS = listOf("patch_embedding", "vision_encoder")

/**
 * The parts of `engines.onnx` as sessions of ONNX Runtime on [threads] threads. One thread at a time runs it.
 *
 * @throws BundleDamaged a part is missing, or does not load
 * @throws NotPortable the bundle has no ONNX graphs
 * @throws EngineFailed ONNX Runtime's telemetry is not switched off in the environment
 */
internal class OnnxEngine(private val bundle: Bundle, private val threads: Int, private val memory: KvMemory = ::direct) :
    AutoCloseable {
    private val manifest = bundle.manifest
    private val hidden = Math.toIntExact(manifest.model.hiddenSize)
    private val vocabulary = Math.toIntExact(manifest.model.vocabSize)
    private val environment = quietEnvironment()

    /** The graph's own default keeps the logits of all positions; Java can set it as an initializer only. */
    private val keepLast = OnnxTensor.createTensor(environment, direct(8).asLongBuffer().put(0, 1L), longArrayOf(1))
    private val sessions = HashMap<String, OrtSession>()
    private val ids = direct(8 * manifest.prefillChunk).asLongBuffer()
    private val mask = direct(8 * manifest.kvCache.length).asLongBuffer().also { mask ->
        for (at in 0 until mask.capacity()) mask.put(at, 1L)
    }
    private val embeddings = direct(Math.multiplyExact(4 * manifest.prefillChunk, hidden)).asFloatBuffer()
    private val logits = direct(4 * vocabulary).asFloatBuffer()

    init {
        val parts = manifest.engines["onnx"]
            ?: throw NotPortable("the bundle has no ONNX graphs: export it with --backend onnx")
        try {
            for (name in TEXT_PARTS + if (manifest.vision == null) emptyList() else VISION_PARTS) {
                val part = parts[name] ?: throw BundleDamaged("the bundle has no ONNX part $name: export it again")
                sessions[name] = open(name, part.file)
            }
        } catch (error: Exception) {
            close()
            throw error
        }
    }

    fun newCache(): KvCache = KvCache(environment, manifest, memory)

    /** An image's tiles -> its tokens [tiles * tokens per tile, hidden], some tiles at a time. */
    fun encode(tiles: Tiles, interrupt: Interrupt): FloatArray {
        val vision = checkNotNull(manifest.vision)
        val side = vision.preprocessing.tiling.tileSize
        val tokens = FloatArray(tiles.count * vision.tokensPerTile * hidden)
        for (first in 0 until tiles.count step vision.tileBatch) {
            val count = minOf(vision.tileBatch, tiles.count - first)
            val pixels = direct(Math.multiplyExact(4 * count * 3, side * side)).asFloatBuffer()
            normalize(tiles, first, count, vision.preprocessing, pixels)
            pixels.rewind()
            val size = count * vision.tokensPerTile * hidden
            running("vision_encoder", interrupt) {
                tensor(pixels, count, 3, side, side).use { input ->
                    session("patch_embedding").run(mapOf("pixel_values" to input), interrupt.options).use { patches ->
                        val given = mapOf("patches" to patches[0] as OnnxTensor)
                        session("vision_encoder").run(given, interrupt.options).use { result ->
                            (result[0] as OnnxTensor).floatBuffer.get(tokens, first * vision.tokensPerTile * hidden, size)
                        }
                    }
                }
            }
        }
        return tokens
    }

    /**
     * Feeds tokens, at most a prefill chunk of them and as many as [cache] has room for; the logits [vocabulary] behind
     * the last. Where [image] gives a row of [hidden] numbers for an index of [tokens], that stands for the token. The
     * cache keeps its position where it fails or is cancelled.
     */
    fun step(tokens: IntArray, cache: KvCache, interrupt: Interrupt, image: (Int) -> FloatBuffer? = { null }): FloatArray {
        val total = cache.position + tokens.size
        check(tokens.size <= manifest.prefillChunk && total <= manifest.kvCache.length) { "$total tokens do not fit" }
        val rows = tokens.indices.map(image)
        ids.clear()
        // The placeholder's id need not be in the table.
        for ((at, row) in rows.withIndex()) ids.put(if (row == null) tokens[at].toLong() else 0L)
        ids.flip()
        embeddings.clear().limit(tokens.size * hidden)
        mask.clear().limit(total)
        running("text_decoder", interrupt) {
            tensor(embeddings, 1, tokens.size, hidden).use { embedded ->
                OnnxTensor.createTensor(environment, ids, longArrayOf(1, tokens.size.toLong())).use { input ->
                    session("token_embedding").run(mapOf("input_ids" to input), mapOf("inputs_embeds" to embedded)).close()
                }
                rows.forEachIndexed { at, row ->
                    if (row != null) embeddings.duplicate().also { it.position(at * hidden) }.put(row)
                }
                decode(embedded, total, cache, interrupt)
            }
        }
        cache.position = total
        return FloatArray(vocabulary).also { logits.duplicate().get(it) }
    }

    private fun decode(embedded: OnnxTensor, total: Int, cache: KvCache, interrupt: Interrupt) {
        OnnxTensor.createTensor(environment, mask, longArrayOf(1, total.toLong())).use { seen ->
            tensor(logits, 1, 1, vocabulary).use { output ->
                val inputs = cache.pasts + mapOf("inputs_embeds" to embedded, "attention_mask" to seen)
                val outputs = cache.presents + mapOf("logits" to output)
                session("text_decoder").run(inputs, emptySet(), outputs, interrupt.options).close()
            }
        }
    }

    override fun close() {
        sessions.values.forEach(OrtSession::close)
        sessions.clear()
        keepLast.close()
    }

    private fun session(name: String): OrtSession = sessions[name] ?: throw EngineFailed("$name is not loaded")

    private fun tensor(values: FloatBuffer, vararg shape: Int): OnnxTensor =
        OnnxTensor.createTensor(environment, values, LongArray(shape.size) { shape[it].toLong() })

    private fun open(name: String, file: String): OrtSession = OrtSession.SessionOptions().use { options ->
        // A gather has nothing to share out, and patches are embedded beside the encoder.
        options.setIntraOpNumThreads(if (name == "token_embedding" || name == "patch_embedding") 1 else threads)
        options.setInterOpNumThreads(1)
        options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL)
        // Without VNNI, sums of the vision encoder saturate otherwise.
        if (System.getProperty("os.arch") in X86) options.addConfigEntry("session.x64quantprecision", "1")
        if (name == "text_decoder") {
            options.addInitializer("logits_to_keep", keepLast)
            // A pattern is kept for each input shape, and every decode step has a new length of the mask.
            options.setMemoryPatternOptimization(false)
        } else {
            // Threads that wait busily for the next image would take the decoder's cores.
            options.addConfigEntry("session.intra_op.allow_spinning", "0")
        }
        try {
            environment.createSession(bundle.path(file).toString(), options)
        } catch (error: OrtException) {
            throw BundleDamaged("$file does not load: ${oneLineOf(error)}", error)
        }
    }

    /** A run that was terminated ends with an error like any other: what was asked for tells the two apart. */
    private fun running(name: String, interrupt: Interrupt, run: () -> Unit) = try {
        if (interrupt.isCancelled) throw Cancelled()
        run()
    } catch (error: OrtException) {
        if (interrupt.isCancelled) throw Cancelled()
        throw EngineFailed("$name fails: ${oneLineOf(error)}", error)
    }
}

private fun oneLineOf(error: OrtException) = oneLine(error.message.orEmpty(), 160)

/** ONNX Runtime without its telemetry, which writes a device id into the home directory unless the environment says no. */
private fun quietEnvironment(): OrtEnvironment {
    if (System.getenv(TELEMETRY) != "1") {
        throw EngineFailed("ONNX Runtime's telemetry is on: set $TELEMETRY=1 in the environment")
    }
    val environment = OrtEnvironment.getEnvironment(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL, "pocketvlm")
    environment.setTelemetry(false)
    return environment
}
