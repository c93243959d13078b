package dev.pocketvlm

import dev.pocketvlm.bundle.parseJson
import kotlinx.coroutines.runBlocking
import java.io.File

/** One JSON object a line of a file that `tests/android` made. */
fun lines(name: String): List<Case> =
    folder("cases").resolve(name).readLines().map { Case(parseJson(it.toByteArray())) }

fun picture(case: Case): Image = Image.rgb(File(case.text("file")).readBytes(), case.int("width"), case.int("height"))

fun configOf(case: Case): GenerationConfig = GenerationConfig(
    maxNewTokens = case.int("most"),
    temperature = case["temperature"]?.let { case.double("temperature") } ?: 0.0,
    seed = case["seed"]?.let { case.int("seed").toULong() } ?: 0u,
    stop = case["stop"]?.let { stop -> (stop as List<*>).map { it as String } }.orEmpty(),
)

/** Runs [work] with a bundle on one thread, and closes it. */
fun <T> withModel(bundle: File, options: Options = Options(threads = 1), work: suspend (PocketVlm) -> T): T = runBlocking {
    PocketVlm.open(bundle, options).use { work(it) }
}
