package dev.pocketvlm

import kotlin.math.abs

/**
 * How an answer is generated: the names and limits of Python's `GenerationConfig`.
 *
 * @property maxNewTokens most tokens of the answer, a stop token included
 * @property temperature 0 is greedy; above, logits are divided by it
 * @property topK choose among the k most likely tokens; 0 for all
 * @property topP choose among the most likely tokens that together have this probability
 * @property seed of the random numbers
 * @property stop strings that end the answer and are no part of it; they may have the text of special tokens
 * @property maxSeconds the answer ends when so much time has passed since the question; null for no limit
 * @property repetitionPenalty makes tokens that the prompt or the answer has already less likely; 1 is none
 * @property logitBias token id -> -100 to 100, added to its logit
 * @throws IllegalArgumentException a value is out of range; the line names it
 */
public class GenerationConfig(
    public val maxNewTokens: Int = 256,
    public val temperature: Double = 0.0,
    public val topK: Int = 0,
    public val topP: Double = 1.0,
    public val seed: ULong = 0u,
    public val stop: List<String> = emptyList(),
    public val maxSeconds: Double? = null,
    public val repetitionPenalty: Double = 1.0,
    public val logitBias: Map<Int, Double> = emptyMap(),
) {
    init {
        require(maxNewTokens >= 1) { "maxNewTokens must be at least 1, not $maxNewTokens" }
        require(isFinite(temperature) && temperature >= 0) { "temperature must be at least 0, not $temperature" }
        require(topK >= 0) { "topK must be at least 0, not $topK" }
        require(topP > 0 && topP <= 1) { "topP must be above 0 and at most 1, not $topP" }
        require(stop.size <= MAX_STOPS && stop.none { it.isEmpty() }) {
            "stop must be at most $MAX_STOPS strings, none empty"
        }
        require(maxSeconds == null || (isFinite(maxSeconds) && maxSeconds > 0)) { "maxSeconds must be above 0, not $maxSeconds" }
        require(isFinite(repetitionPenalty) && repetitionPenalty > 0) {
            "repetitionPenalty must be above 0, not $repetitionPenalty"
        }
        require(logitBias.size <= MAX_BIASES) { "logitBias has ${logitBias.size} entries, at most $MAX_BIASES are taken" }
        for ((id, bias) in logitBias) require(id >= 0 && abs(bias) <= MAX_BIAS) {
            "logitBias must have token ids of at least 0 and biases from -$MAX_BIAS to $MAX_BIAS, not $bias for token $id"
        }
    }

    private companion object {
        const val MAX_STOPS = 64
        const val MAX_BIASES = 1024
        const val MAX_BIAS = 100

        fun isFinite(value: Double) = abs(value) <= Double.MAX_VALUE
    }
}
