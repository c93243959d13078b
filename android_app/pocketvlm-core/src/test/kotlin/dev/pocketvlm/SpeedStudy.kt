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
        var prompt = 0
        var asks = 0
        suspend fun spent(most: Int): Double {
            val start = system.processCpuTime
            val config = GenerationConfig(maxNewTokens = most, logitBias = forbidden)
            // Another beginning each time: else the KV cache would have most of it already.
            prompt = model.ask("${asks++} ${asked.text("prompt")}", generation = config).stats.prefillTokens
            return (system.processCpuTime - start) / 1e9
        }
        suspend fun medianOf(most: Int): Double {
            repeat(asked.int("warmups")) { spent(most) }
            return List(asked.int("repeats")) { spent(most) }.sorted()[asked.int("repeats") / 2]
        }
        val first = medianOf(1)
        val decode = (medianOf(asked.int("tokens") + 1) - first) / asked.int("tokens")
        folder("cases").resolve("spent.json").writeText("{\"prefill\": ${first / prompt}, \"decode\": $decode}")
    }
}
