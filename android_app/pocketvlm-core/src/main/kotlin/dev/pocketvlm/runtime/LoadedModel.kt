package dev.pocketvlm.runtime

import dev.pocketvlm.GenerationConfig
import dev.pocketvlm.bundle.Bundle
import dev.pocketvlm.bundle.checkLoadable
import dev.pocketvlm.bundle.openBundle
import dev.pocketvlm.images.Rgb
import dev.pocketvlm.images.pack
import dev.pocketvlm.text.Detokenizer
import dev.pocketvlm.text.MAX_TOKENIZER_BYTES
import dev.pocketvlm.text.Message
import dev.pocketvlm.text.StopStrings
import dev.pocketvlm.text.TextTokenizer
import dev.pocketvlm.text.readTokenizer
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer

/**
 * An answer: its tokens, their text in pieces, and why it ended: `stop`, `length`, `kv_length` or `cancelled`. So many
 * tokens of the prompt were [reused] of what the KV cache held.
 */
internal class Generated(val tokenIds: List<Int>, val pieces: List<String>, val finishReason: String, val reused: Int) {
    val text: String get() = pieces.joinToString("")
}

/** A loaded bundle: engine, tokenizer and one KV cache. One thread at a time asks. */
internal class LoadedModel private constructor(private val bundle: Bundle, threads: Int, memory: KvMemory) : AutoCloseable {
    private val manifest = bundle.manifest
    private val tokenizer = TextTokenizer(
        readTokenizer(bundle.read(manifest.tokenizer, MAX_TOKENIZER_BYTES)),
        manifest.stop + listOfNotNull(manifest.imageToken),
    )
    private val newline = manifest.vision?.packing?.let { floats(bundle.read(it.newline, Int.MAX_VALUE.toLong())) }
    private val engine = OnnxEngine(bundle, threads, memory)
    private val cache = engine.newCache()

    /** What was computed at each position of the cache: [Prompt.keys]. */
    private val keys = ArrayList<Any>()

    /** Answers [messages], whose images are [images] by index, from the first token that the cache lacks. Errors: [promptOf]. */
    fun answer(
        messages: List<Message>,
        images: List<Rgb>,
        config: GenerationConfig = GenerationConfig(),
        interrupt: Interrupt = Interrupt(),
    ): Generated = interrupt.use {
        val prompt = promptOf(messages, images.map { prepared(it, manifest) }, manifest, tokenizer)
        val reused = rewound(prompt.keys)
        val writer = Writer(config.stop)
        val ids = ArrayList<Int>()
        val finishReason = try {
            generate(prompt, config, writer, ids, interrupt)
        } catch (cancelled: Cancelled) {
            writer.end()
            "cancelled"
        }
        Generated(ids, writer.pieces, finishReason, reused)
    }

    /** Forgets what the cache holds. */
    fun reset() {
        rewound(listOf(Unit))
    }

    /** Adds the answer's tokens to [ids] and their text to [writer]; why it ended. */
    private fun generate(
        prompt: Prompt,
        config: GenerationConfig,
        writer: Writer,
        ids: MutableList<Int>,
        interrupt: Interrupt,
    ): String {
        val seen = prompt.ids.filterIndexed { at, _ -> prompt.picture[at] < 0 }
        val sampler = Sampler(config, seen, Math.toIntExact(manifest.model.vocabSize))
        var token = sampler.choose(prefilled(prompt, interrupt))
        while (true) {
            ids.add(token)
            val limit = when {
                ids.size == config.maxNewTokens -> "length"
                cache.position >= manifest.kvCache.length -> "kv_length"
                interrupt.isCancelled -> "cancelled"
                else -> null
            }
            writer.push(token, limit)?.let { return it }
            val logits = engine.step(intArrayOf(token), cache, interrupt)
            keys.add(token)
            token = sampler.choose(logits)
        }
    }

    /** Forgets what is no beginning of [wanted]; how much is left. Its last token never counts: its logits are needed. */
    private fun rewound(wanted: List<Any>): Int {
        val limit = minOf(keys.size, wanted.size - 1)
        val kept = (0 until limit).firstOrNull { keys[it] != wanted[it] } ?: limit
        keys.subList(kept, keys.size).clear()
        cache.position = kept
        return kept
    }

    override fun close() {
        cache.close()
        engine.close()
    }

    /** A picture's tokens [tokens, hidden]. */
    private fun encoded(picture: Picture, interrupt: Interrupt): FloatArray {
        val tokens = engine.encode(picture.tiles, interrupt)
        return if (picture.packed == null) tokens else pack(tokens, picture.packed, checkNotNull(newline))
    }

    /** Computes what the cache lacks of a prompt, in chunks; the logits [vocabulary] behind its last token. */
    private fun prefilled(prompt: Prompt, interrupt: Interrupt): FloatArray {
        val hidden = Math.toIntExact(manifest.model.hiddenSize)
        val wanted = prompt.keys
        val shown = prompt.picture.drop(cache.position).filter { it >= 0 }.toSortedSet()
        val encoded = shown.associateWith { encoded(prompt.pictures[it], interrupt) }
        var logits = FloatArray(0)
        for (first in cache.position until prompt.ids.size step manifest.prefillChunk) {
            val last = minOf(first + manifest.prefillChunk, prompt.ids.size)
            logits = engine.step(prompt.ids.copyOfRange(first, last), cache, interrupt) { at ->
                encoded[prompt.picture[first + at]]?.let { FloatBuffer.wrap(it, prompt.row[first + at] * hidden, hidden) }
            }
            keys.addAll(wanted.subList(first, last))
        }
        return logits
    }

    /** Tokens to text, and the decision that an answer ends. */
    private inner class Writer(stop: List<String>) {
        private val detokenizer = Detokenizer(tokenizer::decode)
        private val stops = StopStrings(stop)
        val pieces = ArrayList<String>()

        /** Adds the text that this token completes; why the answer ends with it, [limit] if nothing else, or null. */
        fun push(token: Int, limit: String?): String? {
            val isStop = token in manifest.stop
            var text = stops.push(if (isStop) "" else detokenizer.push(token), tokenizer.specialText(token))
            val reason = if (stops.found || isStop) "stop" else limit
            if (reason != null) text += rest()
            pieces.add(text)
            return if (stops.found) "stop" else reason
        }

        /** Adds what was held back, where an answer ends between two tokens. */
        fun end() {
            pieces.add(rest())
        }

        private fun rest(): String {
            if (stops.found) return ""
            val text = stops.push(detokenizer.flush())
            return if (stops.found) text else text + stops.flush()
        }
    }

    companion object {
        /**
         * Opens, checks and loads a bundle, to run on so many threads.
         *
         * @throws dev.pocketvlm.PocketVlmException it is damaged, too new, or of a kind that this library does not run
         */
        fun open(location: File, threads: Int, memory: KvMemory = ::direct): LoadedModel {
            val bundle = openBundle(location)
            checkLoadable(bundle.manifest)
            return LoadedModel(bundle, threads, memory)
        }

        private fun floats(bytes: ByteArray): FloatArray {
            val values = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
            return FloatArray(values.remaining()).also { values.get(it) }
        }
    }
}
