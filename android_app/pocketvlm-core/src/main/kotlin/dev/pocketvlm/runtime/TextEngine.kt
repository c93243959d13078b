package dev.pocketvlm.runtime

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtSession
import dev.pocketvlm.KvMemory
import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.EngineFailed
import dev.pocketvlm.images.alongText
import java.nio.FloatBuffer

private val PARTS = listOf("token_embedding", "text_decoder")

/**
 * Where a step's tokens stand: [positions] on three axes, [tokens, 3], where the model has them, and the last place that each
 * may see, [tokens]. Those of text from the cache's end on where they are null.
 */
internal class Where(val positions: IntArray? = null, val lastSeen: IntArray? = null)

/**
 * The text parts of `engines.onnx` as sessions of ONNX Runtime. One thread at a time runs it.
 *
 * @throws BundleDamaged a part is missing, or does not load
 */
internal class TextEngine(private val runtime: OnnxRuntime, private val memory: KvMemory) : AutoCloseable {
    private val manifest = runtime.bundle.manifest
    private val environment = runtime.environment
    private val hidden = Math.toIntExact(manifest.model.embeddingWidth)
    private val width = Math.toIntExact(manifest.enteringWidth)
    private val rope = TokenRope.of(runtime.bundle)
    private val vocabulary = Math.toIntExact(manifest.model.vocabSize)

    /** The graph's own default keeps the logits of all positions; Java can set it as an initializer only. */
    private val keepLast = OnnxTensor.createTensor(environment, direct(8).asLongBuffer().put(0, 1L), longArrayOf(1))
    private val sessions = HashMap<String, OrtSession>()
    private val ids = direct(8 * manifest.prefillChunk).asLongBuffer()
    private val mask = direct(8 * manifest.kvCache.length).asLongBuffer().also { mask ->
        for (at in 0 until mask.capacity()) mask.put(at, 1L)
    }
    private val embeddings = direct(Math.multiplyExact(4 * manifest.prefillChunk, hidden)).asFloatBuffer()

    /** The same with rows behind each that layers add later, zeros for text; [embeddings] where there are none. */
    private val entering =
        if (width == hidden) embeddings else direct(Math.multiplyExact(4 * manifest.prefillChunk, width)).asFloatBuffer()

    /** cos and sin of a step's tokens, where they have positions on three axes. */
    private val turns = List(2) { direct(Math.multiplyExact(4 * manifest.prefillChunk, rope?.pairs ?: 0)).asFloatBuffer() }

    /** What a step's tokens may see, where that may be another place than their own. */
    private val seen = direct(if (manifest.hasSpans) 8 * manifest.prefillChunk else 0).asLongBuffer()
    private val logits = direct(4 * vocabulary).asFloatBuffer()
    private val read = FloatArray(vocabulary)
    private val output = runtime.tensor(logits, 1, 1, vocabulary)

    /** Those of a step of one token, which all but a few are. */
    private val single = Inputs(1)

    /** Views of the first tokens of [ids], [embeddings], [entering], [turns] and [seen]. */
    private inner class Inputs(tokens: Int) : AutoCloseable {
        val ids: OnnxTensor
        val embedded: OnnxTensor
        val entering: OnnxTensor
        val turns: List<OnnxTensor>
        val seen: OnnxTensor?

        init {
            this@TextEngine.ids.clear().limit(tokens)
            embeddings.clear().limit(tokens * hidden)
            ids = OnnxTensor.createTensor(environment, this@TextEngine.ids, longArrayOf(1, tokens.toLong()))
            embedded = runtime.tensor(embeddings, 1, tokens, hidden)
            this@TextEngine.entering.clear().limit(tokens * width)
            entering = if (width == hidden) embedded else runtime.tensor(this@TextEngine.entering, 1, tokens, width)
            turns = if (rope == null) emptyList() else this@TextEngine.turns.map { turn ->
                turn.clear().limit(tokens * rope.pairs)
                runtime.tensor(turn, tokens, rope.pairs)
            }
            seen = if (!manifest.hasSpans) null else this@TextEngine.seen.let { bounds ->
                bounds.clear().limit(tokens)
                OnnxTensor.createTensor(environment, bounds, longArrayOf(tokens.toLong()))
            }
        }

        override fun close() {
            ids.close()
            embedded.close()
            if (entering !== embedded) entering.close()
            turns.forEach(OnnxTensor::close)
            seen?.close()
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
            checkDecoder()
        } catch (error: Throwable) {
            close()
            throw error
        }
    }

    private fun checkDecoder() {
        checkInputs("text_decoder", session("text_decoder"), ownShapes(manifest))
        val wanted = LinkedHashMap<String, List<Int>>()
        if (rope != null) for (name in listOf("rope_cos", "rope_sin")) wanted[name] = listOf(-1, rope.pairs)
        if (manifest.hasSpans) wanted["last_seen"] = listOf(-1)
        if (wanted.isEmpty()) return
        checkInputs("text_decoder", session("text_decoder"), wanted + ("inputs_embeds" to listOf(1, -1, width)))
    }

    /** @throws OutOfMemoryError there is no room for one */
    fun newCache(): KvCache = KvCache(environment, manifest, memory)

    /**
     * Feeds tokens, at most a prefill chunk of them and as many as [cache] has room for; the logits [vocabulary] behind
     * the last, which the next step overwrites. Where [image] gives a row of [width] numbers for an index of [tokens],
     * that stands for the token. [where] they stand: as text by default. The cache keeps its position where it fails or is
     * ended.
     */
    fun step(
        tokens: IntArray,
        cache: KvCache,
        interrupt: Interrupt,
        where: Where = Where(),
        image: (Int) -> FloatBuffer? = { null },
    ): FloatArray {
        val total = cache.position + tokens.size
        check(tokens.size <= manifest.prefillChunk && total <= manifest.kvCache.length) { "$total tokens do not fit" }
        ids.clear()
        mask.clear().limit(total)
        running("text_decoder", interrupt) {
            val inputs = if (tokens.size == 1) single else Inputs(tokens.size)
            try {
                embed(tokens, inputs, image)
                turns.forEach { it.clear() }
                rope?.rows(where.positions ?: alongText(cache.position, tokens.size), turns[0], turns[1])
                seen.clear()
                if (manifest.hasSpans) for (at in tokens.indices) {
                    seen.put(at, (where.lastSeen?.get(at) ?: (cache.position + at)).toLong())
                }
                decode(inputs, total, cache, interrupt)
            } finally {
                if (inputs !== single) inputs.close()
            }
        }
        cache.advance(total)
        logits.duplicate().get(read)
        return read
    }

    private fun embed(tokens: IntArray, inputs: Inputs, image: (Int) -> FloatBuffer?) {
        val rows = tokens.indices.map(image)
        // The placeholder's id need not be in the table.
        for ((at, row) in rows.withIndex()) ids.put(at, if (row == null) tokens[at].toLong() else 0L)
        val outputs = mapOf("inputs_embeds" to inputs.embedded)
        session("token_embedding").run(mapOf("input_ids" to inputs.ids), outputs).close()
        if (width != hidden) widen(tokens.size)
        rows.forEachIndexed { at, row ->
            if (row != null) entering.duplicate().also { it.clear().position(at * width) }.put(row)
        }
    }

    /** [tokens, hidden] -> [tokens, width] */
    private fun widen(tokens: Int) {
        val from = embeddings.duplicate().also { it.clear() }
        val to = entering.duplicate().also { it.clear() }
        val row = FloatArray(width)
        repeat(tokens) {
            from.get(row, 0, hidden)
            to.put(row)
        }
    }

    private fun decode(given: Inputs, total: Int, cache: KvCache, interrupt: Interrupt) {
        OnnxTensor.createTensor(environment, mask, longArrayOf(1, total.toLong())).use { seen ->
            cache.inputs["inputs_embeds"] = given.entering
            listOf("rope_cos", "rope_sin").zip(given.turns) { name, turn -> cache.inputs[name] = turn }
            cache.inputs["attention_mask"] = seen
            given.seen?.let { cache.inputs["last_seen"] = it }
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
