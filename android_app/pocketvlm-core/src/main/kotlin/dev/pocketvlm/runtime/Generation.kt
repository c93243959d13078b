package dev.pocketvlm.runtime

import dev.pocketvlm.FinishReason
import dev.pocketvlm.GenerationConfig
import dev.pocketvlm.Piece
import dev.pocketvlm.Stats
import dev.pocketvlm.bundle.Manifest
import dev.pocketvlm.images.AXES
import dev.pocketvlm.images.alongText
import dev.pocketvlm.images.endOfChunk
import dev.pocketvlm.text.Detokenizer
import dev.pocketvlm.text.StopStrings
import dev.pocketvlm.text.TextTokenizer
import java.nio.FloatBuffer

/** Nanoseconds of a clock that only goes forward. */
internal fun now(): Long = System.nanoTime()

internal fun secondsSince(start: Long): Double = (now() - start) / 1e9

/** What an answer costs, while it is made. */
internal class Meter(private val loadSeconds: Double, val asked: Long = now()) {
    var preprocessSeconds = 0.0
    var encodeSeconds = 0.0
    var encodeWaitSeconds = 0.0
    var imageTokens = 0
    var promptTokens = 0
    var reusedTokens = 0
    var prefillTokens = 0
    var prefillSeconds = 0.0
    var generatedTokens = 0
    var decodeTokens = 0
    var decodeSeconds = 0.0
    var kvTokensLeft = 0
    var timeToFirstTokenSeconds = 0.0
    private var peakMemoryBytes: Long? = null // asked for at the first piece and the last

    fun stats(finishReason: FinishReason? = null): Stats {
        val peak = peakMemoryBytes.takeIf { finishReason == null } ?: peakMemory().also { peakMemoryBytes = it }
        return Stats(
            loadSeconds, preprocessSeconds, encodeSeconds, encodeWaitSeconds, imageTokens, promptTokens, reusedTokens,
            prefillTokens, prefillSeconds, generatedTokens, decodeTokens, decodeSeconds, kvTokensLeft,
            timeToFirstTokenSeconds, peak, finishReason,
        )
    }
}

/** What every answer of a model needs. */
internal class TextParts(val manifest: Manifest, val tokenizer: TextTokenizer, val engine: TextEngine)

/**
 * One answer, a token at a time, all on the model's text thread: [prefill] until it is done, then [next] until it gives the
 * last piece. [Session.keys] always say exactly what was computed, wherever it ends.
 */
internal class Generation(
    private val parts: TextParts,
    private val session: Session,
    private val prompt: Prompt,
    private val config: GenerationConfig,
    private val interrupt: Interrupt,
    private val meter: Meter,
) {
    private val manifest = parts.manifest
    private val cache = session.cache()
    private val writer = Writer(parts, config.stop)
    private val seen = prompt.ids.filterIndexed { at, _ -> prompt.picture[at] < 0 }
    private val sampler = Sampler(config, seen, Math.toIntExact(manifest.model.vocabSize))
    private val keys = prompt.keys

    /** Of the prompt's tokens [tokens, 3], where they are not their places, and how far text behind it is behind its own. */
    private val positions = manifest.positions?.let { prompt.positions }
    private val lastSeen = prompt.lastSeen
    private val lag = positions?.let { prompt.ids.size - it.max() - 1 } ?: 0
    private var pending: Int? = null // the token that was chosen and not given out
    private var last: Int? = null // the one given out and not fed

    init {
        meter.reusedTokens = session.rewound(keys, lastSeen)
        meter.promptTokens = keys.size
        meter.imageTokens = prompt.imageTokens
        meter.kvTokensLeft = manifest.kvCache.length - keys.size
    }

    /** Indices of the pictures whose tokens the cache lacks. */
    val neededPictures: Set<Int> get() = prompt.picture.drop(cache.position).filter { it >= 0 }.toSortedSet()

    /** Computes the next chunk of what the cache lacks; whether that was the last. [encoded]: tokens [tokens, hidden]. */
    fun prefill(encoded: Map<Int, FloatArray>): Boolean {
        val start = now()
        val width = Math.toIntExact(manifest.enteringWidth)
        val first = cache.position
        val end = endOfChunk(lastSeen, first, manifest.prefillChunk)
        // An edited question begins at the first, an answer to the same one at the last.
        if (first == meter.reusedTokens || end == prompt.ids.size) session.keep()
        val here = Where(positions?.copyOfRange(AXES * first, AXES * end), lastSeen.copyOfRange(first, end))
        val logits = parts.engine.step(prompt.ids.copyOfRange(first, end), cache, interrupt, here) { at ->
            encoded[prompt.picture[first + at]]?.let { FloatBuffer.wrap(it, prompt.row[first + at] * width, width) }
        }
        session.keys.addAll(keys.subList(first, end))
        meter.prefillTokens += end - first
        val isDone = end == prompt.ids.size
        if (isDone) pending = sampler.choose(logits)
        meter.prefillSeconds += secondsSince(start)
        if (isDone) meter.timeToFirstTokenSeconds = secondsSince(meter.asked)
        return isDone
    }

    /** The next piece; the last has a finish reason. */
    fun next(): Piece {
        val start = now()
        val isFirst = last == null
        last?.let { fed ->
            val here = Where(positions?.let { alongText(cache.position - lag, 1) })
            val logits = parts.engine.step(intArrayOf(fed), cache, interrupt, here)
            session.keys.add(fed)
            pending = sampler.choose(logits)
            meter.decodeTokens++
        }
        val token = checkNotNull(pending)
        meter.generatedTokens++
        val limit = when {
            meter.generatedTokens == config.maxNewTokens -> FinishReason.LENGTH
            cache.position >= manifest.kvCache.length -> FinishReason.KV_LENGTH
            else -> interrupt.reason
        }
        val (text, reason) = writer.push(token, limit)
        last = token
        if (!isFirst) meter.decodeSeconds += secondsSince(start)
        return Piece(text, token, meter.stats(reason))
    }

    /** The piece that ends an answer between two tokens: what was held back, and why. */
    fun ended(reason: FinishReason): Piece = Piece(writer.rest(), Piece.NO_TOKEN, meter.stats(reason))
}

/** Tokens to text, and the decision that an answer ends. */
private class Writer(private val parts: TextParts, stop: List<String>) {
    private val detokenizer = Detokenizer(parts.tokenizer::decode)
    private val stops = StopStrings(stop)

    /** The text that this token completes; why the answer ends with it, [limit] if nothing else, or null. */
    fun push(token: Int, limit: FinishReason?): Pair<String, FinishReason?> {
        val isStop = token in parts.manifest.stop
        val text = stops.push(if (isStop) "" else detokenizer.push(token), parts.tokenizer.specialText(token))
        val reason = if (stops.found || isStop) FinishReason.STOP else limit ?: return text to null
        val whole = text + rest()
        return whole to if (stops.found) FinishReason.STOP else reason
    }

    /** What was held back, where an answer ends. */
    fun rest(): String {
        if (stops.found) return ""
        val text = stops.push(detokenizer.flush())
        return if (stops.found) text else text + stops.flush()
    }
}
