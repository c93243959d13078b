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

/** An answer: its tokens, their text in pieces, and why it ended: `stop`, `length` or `kv_length`. */
internal class Generated(val tokenIds: List<Int>, val pieces: List<String>, val finishReason: String) {
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

    /** Answers [messages], whose images are [images] by index; errors as [promptOf]. */
    fun answer(messages: List<Message>, images: List<Rgb>, config: GenerationConfig = GenerationConfig()): Generated {
        val prompt = promptOf(messages, images.map { prepared(it, manifest) }, manifest, tokenizer)
        cache.position = 0
        val encoded = prompt.pictures.map(::encoded)
        val seen = prompt.ids.filterIndexed { at, _ -> prompt.picture[at] < 0 }
        val sampler = Sampler(config, seen, Math.toIntExact(manifest.model.vocabSize))
        var token = sampler.choose(prefilled(prompt, encoded))
        val writer = Writer(config.stop)
        val ids = ArrayList<Int>()
        while (true) {
            ids.add(token)
            val limit = if (ids.size == config.maxNewTokens) "length" else if (cache.position >= manifest.kvCache.length) "kv_length" else null
            val finished = writer.push(token, limit)
            if (finished != null) return Generated(ids, writer.pieces, finished)
            token = sampler.choose(engine.step(intArrayOf(token), cache))
        }
    }

    override fun close() {
        cache.close()
        engine.close()
    }

    /** A picture's tokens [tokens, hidden]. */
    private fun encoded(picture: Picture): FloatArray {
        val tokens = engine.encode(picture.tiles)
        return if (picture.packed == null) tokens else pack(tokens, picture.packed, checkNotNull(newline))
    }

    /** Computes a prompt in chunks; the logits [vocabulary] behind its last token. */
    private fun prefilled(prompt: Prompt, encoded: List<FloatArray>): FloatArray {
        val hidden = Math.toIntExact(manifest.model.hiddenSize)
        var logits = FloatArray(0)
        for (first in prompt.ids.indices step manifest.prefillChunk) {
            val last = minOf(first + manifest.prefillChunk, prompt.ids.size)
            logits = engine.step(prompt.ids.copyOfRange(first, last), cache) { at ->
                val picture = prompt.picture[first + at]
                if (picture < 0) null else FloatBuffer.wrap(encoded[picture], prompt.row[first + at] * hidden, hidden)
            }
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
            if (reason != null && !stops.found) {
                text += stops.push(detokenizer.flush())
                if (!stops.found) text += stops.flush()
            }
            pieces.add(text)
            return if (stops.found) "stop" else reason
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
