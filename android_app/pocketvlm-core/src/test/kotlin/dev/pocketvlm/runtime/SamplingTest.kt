package dev.pocketvlm.runtime

import dev.pocketvlm.Case
import dev.pocketvlm.GenerationConfig
import dev.pocketvlm.PocketVlmException.EngineFailed
import dev.pocketvlm.golden
import dev.pocketvlm.holdTo
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Test

class SamplingTest {
    private val golden = Case(golden("sampling.json"))

    @Test
    fun `random numbers are those of the golden file`() {
        holdTo(golden.cases("splitmix64"), "outputs", "doubles") { case ->
            val whole = SplitMix64(case.text("seed").toULong().toLong())
            val parts = SplitMix64(case.text("seed").toULong().toLong())
            listOf(case.list("outputs").map { whole.next().toULong().toString() }, case.list("doubles").map { parts.nextDouble() })
        }
    }

    @Test
    fun `tokens are chosen as everywhere`() {
        holdTo(golden.cases("sequences"), "tokens") { case ->
            val rows = rows(case)
            val sampler = samplerOf(case, rows[0].size)
            listOf(case.list("tokens").indices.map { sampler.choose(rows[it % rows.size]) })
        }
    }

    @Test
    fun `penalties and biases change logits as everywhere`() {
        holdTo(golden.cases("adjustments"), "adjusted") { case ->
            val row = rows(case)[0]
            listOf(samplerOf(case, row.size).adjusted(row).map { it.toDouble() })
        }
    }

    @Test
    fun `logits that are no numbers are an error, also where only some are`() {
        for (bad in listOf(Float.NaN, Float.POSITIVE_INFINITY)) {
            val sampler = Sampler(GenerationConfig(temperature = 1.0), emptyList(), 3)
            assertThrows(EngineFailed::class.java) { sampler.choose(floatArrayOf(0f, bad, 1f)) }
        }
        assertEquals(1, argmax(floatArrayOf(0f, 1f, 1f)))
    }

    @Test
    fun `what is out of range is refused and named`() {
        val wrong = mapOf<String, () -> Any>(
            "maxNewTokens" to { GenerationConfig(maxNewTokens = 0) },
            "temperature" to { GenerationConfig(temperature = Double.NaN) },
            "topK" to { GenerationConfig(topK = -1) },
            "topP" to { GenerationConfig(topP = 0.0) },
            "stop" to { GenerationConfig(stop = listOf("")) },
            "repetitionPenalty" to { GenerationConfig(repetitionPenalty = 0.0) },
            "logitBias" to { Sampler(GenerationConfig(logitBias = mapOf(9 to 1.0)), emptyList(), 9) },
        )
        for ((name, make) in wrong) {
            val error = assertThrows(name, IllegalArgumentException::class.java) { make() }
            check(error.message!!.startsWith(name)) { "${error.message}" }
        }
    }

    private fun rows(case: Case): List<FloatArray> =
        Case(golden["logits"]).list(case.text("logits")).map { row ->
            (row as List<*>).map { (it as Number).toFloat() }.toFloatArray()
        }

    private fun samplerOf(case: Case, vocabulary: Int): Sampler {
        val of = { key: String, default: Any -> case[key] ?: default }
        val biases = (of("logit_bias", emptyList<Any>()) as List<*>).map { it as List<*> }
        val config = GenerationConfig(
            temperature = (of("temperature", 0L) as Number).toDouble(),
            topK = (of("top_k", 0L) as Long).toInt(),
            topP = (of("top_p", 1L) as Number).toDouble(),
            seed = (of("seed", "0") as String).toULong(),
            repetitionPenalty = (of("repetition_penalty", 1L) as Number).toDouble(),
            logitBias = biases.associate { (it[0] as Long).toInt() to (it[1] as Number).toDouble() },
        )
        return Sampler(config, (of("seen", emptyList<Any>()) as List<*>).map { (it as Long).toInt() }, vocabulary)
    }
}
