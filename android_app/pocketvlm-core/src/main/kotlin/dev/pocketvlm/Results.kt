package dev.pocketvlm

/** Why an answer ended. */
public enum class FinishReason {
    /** A stop token or a stop string. */
    STOP,

    /** It has `maxNewTokens`. */
    LENGTH,

    /** The KV cache is full. */
    KV_LENGTH,

    /** `maxSeconds` are over. */
    DEADLINE,

    /** [Chat.cancel]. */
    CANCELLED,
}

/**
 * One token of an answer. [text] is what it completes: empty while a character or a stop string is unfinished, and never
 * half a character. The last piece has [Stats.finishReason]; one that ends an answer between two tokens has [NO_TOKEN].
 */
public class Piece internal constructor(public val text: String, public val tokenId: Int, public val stats: Stats) {
    public companion object {
        /** The [tokenId] of a piece that only says how an answer ended. */
        public const val NO_TOKEN: Int = -1
    }
}

/** A whole answer. */
public class Answer internal constructor(
    public val text: String,
    public val tokenIds: List<Int>,
    public val stats: Stats,
) {
    override fun toString(): String = text
}

/**
 * What an answer cost so far: the names of Python's `Stats`. Seconds, bytes, tokens.
 *
 * @property loadSeconds opening the bundle: checks, tokenizer, sessions
 * @property preprocessSeconds cutting pictures into tiles, tokenizing
 * @property encodeSeconds pictures through the vision encoder, in the background
 * @property encodeWaitSeconds what the answer waited for that
 * @property imageTokens tokens of the prompt's pictures
 * @property promptTokens of the whole prompt
 * @property reusedTokens of the prompt, which were in the KV cache already
 * @property prefillTokens of the prompt, which were computed
 * @property generatedTokens of the answer, a stop token included; the first comes out of the prefill
 * @property decodeTokens steps of one token each
 * @property decodeSeconds those steps, with sampling and detokenizing
 * @property kvTokensLeft room in the KV cache behind the prompt
 * @property timeToFirstTokenSeconds from the question on: preprocessing, encoding, prefill
 * @property peakMemoryBytes largest resident set of the process so far, 0 where the system does not say
 * @property finishReason null until the answer has ended
 */
public class Stats internal constructor(
    public val loadSeconds: Double = 0.0,
    public val preprocessSeconds: Double = 0.0,
    public val encodeSeconds: Double = 0.0,
    public val encodeWaitSeconds: Double = 0.0,
    public val imageTokens: Int = 0,
    public val promptTokens: Int = 0,
    public val reusedTokens: Int = 0,
    public val prefillTokens: Int = 0,
    public val prefillSeconds: Double = 0.0,
    public val generatedTokens: Int = 0,
    public val decodeTokens: Int = 0,
    public val decodeSeconds: Double = 0.0,
    public val kvTokensLeft: Int = 0,
    public val timeToFirstTokenSeconds: Double = 0.0,
    public val peakMemoryBytes: Long = 0,
    public val finishReason: FinishReason? = null,
) {
    /** Prompt tokens a second; 0 before the prefill. */
    public val prefillTokensPerSecond: Double get() = if (prefillSeconds > 0) prefillTokens / prefillSeconds else 0.0

    /** Decode steps a second; 0 before the first. */
    public val decodeTokensPerSecond: Double get() = if (decodeSeconds > 0) decodeTokens / decodeSeconds else 0.0
}

/** Rates in tokens a second, one a repeat. */
public class Benchmark internal constructor(
    public val prefillTokensPerSecond: List<Double>,
    public val decodeTokensPerSecond: List<Double>,
) {
    /** The median of [prefillTokensPerSecond]. */
    public val prefillMedian: Double get() = median(prefillTokensPerSecond)

    /** The median of [decodeTokensPerSecond]. */
    public val decodeMedian: Double get() = median(decodeTokensPerSecond)
}

private fun median(values: List<Double>): Double {
    val sorted = values.sorted()
    return (sorted[(sorted.size - 1) / 2] + sorted[sorted.size / 2]) / 2
}
