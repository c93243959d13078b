package dev.pocketvlm.runtime

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtSession
import dev.pocketvlm.KvMemory
import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.EngineFailed
import java.nio.FloatBuffer

private val PARTS = listOf("token_embedding", "text_decoder")

/**
 * The text parts of `engines.onnx` as sessions of ONNX Runtime. One thread at a time runs it.
 *
 * @throws BundleDamaged a part is missing, or does not load
 */
internal class TextEngine(private val runtime: OnnxRuntime, private val memory: KvMemory) : AutoCloseable {
    private val manifest = runtime.bundle.manifest
    private val environment = runtime.environment
    private val hidden = Math.toIntExact(manifest.model.hiddenSize)
    private val vocabulary = Math.toIntExact(manifest.model.vocabSize)

    /** The graph's own default keeps the logits of all positions; Java can set it as an initializer only. */
    private val keepLast = OnnxTensor.createTensor(environment, direct(8).asLongBuffer().put(0, 1L), longArrayOf(1))
    private val sessions = HashMap<String, OrtSession>()
    private val ids = direct(8 * manifest.prefillChunk).asLongBuffer()
    private val mask = direct(8 * manifest.kvCache.length).asLongBuffer().also { mask ->
        for (at in 0 until mask.capacity()) mask.put(at, 1L)
    }
    private val embeddings = direct(Math.multiplyExact(4 * manifest.prefillChunk, hidden)).asFloatBuffer()
    private val logits = direct(4 * vocabulary).asFloatBuffer()
    private val read = FloatArray(vocabulary)
    private val output = runtime.tensor(logits, 1, 1, vocabulary)

    /** Those of a step of one token, which all but a few are. */
    private val single = Inputs(1)

    /** Views of the first tokens of [ids] and [embeddings]. */
    private inner class Inputs(tokens: Int) : AutoCloseable {
        val ids: OnnxTensor
        val embedded: OnnxTensor

        init {
            this@TextEngine.ids.clear().limit(tokens)
            embeddings.clear().limit(tokens * hidden)
            ids = OnnxTensor.createTensor(environment, this@TextEngine.ids, longArrayOf(1, tokens.toLong()))
            embedded = runtime.tensor(embeddings, 1, tokens, hidden)
        }

        override fun close() {
            ids.close()
            embedded.close()
        }
    }

    init {
        try {
            for (name in PARTS) sessions[name] = runtime.open(name) {
                if (name == "text_decoder") {
                    addInitializer("logits_to_keep", keepLast)
                    // A pattern is kept for each input shape, and every decode step has a new length of the mask.
                    setMemoryPatternOptimization(false)
                }
            }
        } catch (error: Throwable) {
            close()
            throw error
        }
    }

    /** @throws OutOfMemoryError there is no room for one */
    fun newCache(): KvCache = KvCache(environment, manifest, memory)

    /**
     * Feeds tokens, at most a prefill chunk of them and as many as [cache] has room for; the logits [vocabulary] behind
     * the last, which the next step overwrites. Where [image] gives a row of [hidden] numbers for an index of [tokens],
     * that stands for the token. The cache keeps its position where it fails or is ended.
     */
    fun step(tokens: IntArray, cache: KvCache, interrupt: Interrupt, image: (Int) -> FloatBuffer? = { null }): FloatArray {
        val total = cache.position + tokens.size
        check(tokens.size <= manifest.prefillChunk && total <= manifest.kvCache.length) { "$total tokens do not fit" }
        ids.clear()
        mask.clear().limit(total)
        running("text_decoder", interrupt) {
            val inputs = if (tokens.size == 1) single else Inputs(tokens.size)
            try {
                embed(tokens, inputs, image)
                decode(inputs.embedded, total, cache, interrupt)
            } finally {
                if (inputs !== single) inputs.close()
            }
        }
        cache.position = total
        logits.duplicate().get(read)
        return read
    }

    private fun embed(tokens: IntArray, inputs: Inputs, image: (Int) -> FloatBuffer?) {
        val rows = tokens.indices.map(image)
        // The placeholder's id need not be in the table.
        for ((at, row) in rows.withIndex()) ids.put(at, if (row == null) tokens[at].toLong() else 0L)
        val outputs = mapOf("inputs_embeds" to inputs.embedded)
        session("token_embedding").run(mapOf("input_ids" to inputs.ids), outputs).close()
        rows.forEachIndexed { at, row ->
            if (row != null) embeddings.duplicate().also { it.clear().position(at * hidden) }.put(row)
        }
    }

    private fun decode(embedded: OnnxTensor, total: Int, cache: KvCache, interrupt: Interrupt) {
        OnnxTensor.createTensor(environment, mask, longArrayOf(1, total.toLong())).use { seen ->
            cache.inputs["inputs_embeds"] = embedded
            cache.inputs["attention_mask"] = seen
            cache.outputs["logits"] = output
            session("text_decoder").run(cache.inputs, emptySet(), cache.outputs, interrupt.options).close()
        }
    }

    override fun close() {
        sessions.values.forEach(OrtSession::close)
        sessions.clear()
        single.close()
        output.close()
        keepLast.close()
    }

    private fun session(name: String): OrtSession = sessions[name] ?: throw EngineFailed("$name is not loaded")
}
