package dev.pocketvlm.runtime

import dev.pocketvlm.GenerationConfig
import dev.pocketvlm.PocketVlmException.EngineFailed
import java.util.PriorityQueue
import kotlin.math.exp

/** Random numbers: Steele, Lea, Flood, OOPSLA 2014; constants as in Vigna's splitmix64.c. */
internal class SplitMix64(seed: Long) {
    private var state = seed

    fun next(): Long {
        state += -0x61c8864680b583ebL // 0x9E3779B97F4A7C15
        var value = state
        value = (value xor (value ushr 30)) * -0x40a7b892e31b1a47L // 0xBF58476D1CE4E5B9
        value = (value xor (value ushr 27)) * -0x6b2fb644ecceee15L // 0x94D049BB133111EB
        return value xor (value ushr 31)
    }

    /** In [0, 1): the upper 53 bits times 2**-53. */
    fun nextDouble(): Double = (next() ushr 11).toDouble() * (1.0 / (1L shl 53))
}

/**
 * Chooses the tokens of one answer by the portable rule of Python's `runtime/sampling.py`, whose steps are named here.
 * [seen]: the prompt's text tokens, for the repetition penalty; those chosen here are added.
 */
internal class Sampler(private val config: GenerationConfig, seen: Iterable<Int>, private val vocabulary: Int) {
    private val random = SplitMix64(config.seed.toLong())
    private val penalized = config.repetitionPenalty != 1.0
    private val seen = if (penalized) seen.filterTo(HashSet()) { it in 0 until vocabulary } else HashSet()
    private val changed = if (penalized || config.logitBias.isNotEmpty()) FloatArray(vocabulary) else null

    init {
        val largest = config.logitBias.keys.maxOrNull() ?: -1
        require(largest < vocabulary) { "logitBias has token $largest, the model's vocabulary has $vocabulary" }
    }

    /**
     * The token that follows. [given]: float32 [vocabulary].
     *
     * @throws EngineFailed the logits are not numbers
     */
    fun choose(given: FloatArray): Int {
        val logits = adjusted(given)
        var chosen = argmax(logits)
        if (logits[chosen].isNaN() || logits[chosen].isInfinite()) {
            throw EngineFailed("the model's logits are not numbers: export it again")
        }
        if (config.temperature > 0) chosen = drawn(logits)
        if (penalized) seen.add(chosen)
        return chosen
    }

    /** Step 0: the logits to choose from. */
    fun adjusted(logits: FloatArray): FloatArray {
        val changed = changed ?: return logits
        logits.copyInto(changed)
        for (id in seen) changed[id] = adjusted(logits[id], config.logitBias[id] ?: 0.0, config.repetitionPenalty)
        for ((id, bias) in config.logitBias) if (id !in seen) changed[id] = adjusted(logits[id], bias, 1.0)
        return changed
    }

    private fun adjusted(logit: Float, bias: Double, penalty: Double): Float {
        if (logit.isNaN() || logit.isInfinite()) return logit
        val before = logit.toDouble()
        val after = (if (before > 0) before / penalty else before * penalty) + bias
        return after.coerceIn(-Float.MAX_VALUE.toDouble(), Float.MAX_VALUE.toDouble()).toFloat()
    }

    /** Steps 2 to 5. */
    private fun drawn(logits: FloatArray): Int {
        val keys = ordered(logits, config.topK)
        val largest = logits[keys[0].toInt()].toDouble()
        val sums = DoubleArray(keys.size)
        var sum = 0.0
        for (at in keys.indices) {
            sum += exp((logits[keys[at].toInt()].toDouble() - largest) / config.temperature)
            sums[at] = sum
        }
        var kept = keys.size
        if (config.topP < 1) kept = minOf(kept, sums.indexOfFirst { it >= config.topP * sum } + 1)
        val threshold = random.nextDouble() * sums[kept - 1]
        var index = 0
        while (index < kept - 1 && sums[index] <= threshold) index++
        return keys[index].toInt()
    }
}

/** The lowest id among the largest logits; of NaN where there is one. */
internal fun argmax(logits: FloatArray): Int {
    var best = 0
    for (id in logits.indices) {
        if (logits[id].isNaN()) return id
        if (logits[id] > logits[best]) best = id
    }
    return best
}

/** Ids in the lower 32 bits, by logit, largest first, equal logits by lower id; the first [topK] where it is above 0. */
private fun ordered(logits: FloatArray, topK: Int): LongArray {
    if (topK !in 1 until logits.size) return LongArray(logits.size) { sortKey(logits[it], it) }.also { it.sort() }
    val kept = PriorityQueue<Long>(topK, reverseOrder())
    for (id in logits.indices) {
        val key = sortKey(logits[id], id)
        if (kept.size == topK && key > kept.peek()) continue
        if (kept.size == topK) kept.poll()
        kept.add(key)
    }
    return kept.toLongArray().also { it.sort() }
}

/** One number that sorts as the rule wants. */
private fun sortKey(logit: Float, id: Int): Long {
    val bits = (logit + 0f).toRawBits() // -0 equals 0
    val falling = if (bits < 0) bits and Int.MAX_VALUE else bits.inv()
    return falling.toLong().shl(32) or id.toLong()
}
