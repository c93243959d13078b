package dev.pocketvlm

import com.sun.management.OperatingSystemMXBean
import dev.pocketvlm.bundle.parseJson
import org.junit.Test
import java.io.File
import java.lang.management.ManagementFactory

/** Not among the tests: `make kotlin-speed` runs it, and reads `spent.json`. Seconds are of CPU time, of all threads. */
class SpeedStudy {
    private val asked = Case(parseJson(folder("cases").resolve("speed.json").readBytes()))
    private val system = ManagementFactory.getOperatingSystemMXBean() as OperatingSystemMXBean

    @Test
    fun `a token of the prompt and one of the answer`(): Unit = withModel(File(asked.text("bundle"))) { model ->
        val forbidden = asked.ints("stop").associateWith { -100.0 }
        val tokens = asked.int("tokens")
        val prompts = HashSet<Int>()
        var asks = 0
        suspend fun ask(most: Int) {
            val config = GenerationConfig(maxNewTokens = most, logitBias = forbidden)
            // Another beginning than the last: else the KV cache would have most of it already.
            prompts.add(model.ask("${asks++ % 2} ${asked.text("prompt")}", generation = config).stats.prefillTokens)
        }
        suspend fun spent(most: Int): Double {
            val start = system.processCpuTime
            var answers = 0
            while (system.processCpuTime - start < asked.int("least_milliseconds") * 1_000_000L) {
                ask(most)
                answers++
            }
            return (system.processCpuTime - start) / 1e9 / answers
        }
        val end = System.nanoTime() + asked.int("warm_seconds") * 1_000_000_000L
        while (System.nanoTime() < end) ask(tokens + 1)
        ask(tokens + 1)
        prompts.clear()
        val both = List(asked.int("repeats")) { spent(1) to spent(tokens + 1) }
        val first = both.map { it.first }.sorted()[both.size / 2]
        val decode = both.map { it.second - it.first }.sorted()[both.size / 2] / tokens
        val prompt = prompts.single()
        val found = "{\"prompt\": $prompt, \"prefill\": ${first / prompt}, \"decode\": $decode}"
        folder("cases").resolve("spent.json").writeText(found)
    }
}
