package dev.pocketvlm.text

import dev.pocketvlm.Case
import dev.pocketvlm.bundle.hexadecimal
import dev.pocketvlm.bundle.parseJson
import dev.pocketvlm.folder
import org.junit.Test
import java.io.File
import java.lang.management.ManagementFactory
import java.lang.management.MemoryType
import java.security.MessageDigest

private const val REPEATS = 5

/** Not among the tests: `make tokenizer-parity` runs it, and reads `result.json`. Seconds are of CPU time, of one thread. */
class TokenizerStudy {
    private val folder = folder("cases").resolve("tokenizers")

    @Test
    fun `beside the tokenizers library`() {
        val files = checkNotNull(folder.listFiles { file -> file.extension == "json" }).sorted()
        val rows = files.joinToString(",\n") { file -> "\"${file.nameWithoutExtension}\": {${row(file)}}" }
        folder.resolveSibling("result.json").writeText("{$rows}")
    }

    private fun row(file: File): String {
        val cache = java.nio.file.Files.createTempDirectory("tokenizer").toFile()
        val content = file.readBytes()
        val sha256 = hexadecimal(MessageDigest.getInstance("SHA-256").digest(content))
        val read = measured { readTokenizer(file.readBytes()) }
        val kept = measured { readTokenizer(sha256, cache) { file.readBytes() } }
        cache.deleteRecursively()
        val parts = readTokenizer(content)
        val cases = file.resolveSibling("${file.nameWithoutExtension}.jsonl").readLines().map { Case(parseJson(it.toByteArray())) }
        val texts = cases.map(::spans)
        val controls = cases[0].ints("controls")
        TextTokenizer(parts, controls).let { warm -> texts.take(500).forEach { warm.encode(it) } }
        val tokenizer = TextTokenizer(readTokenizer(content), controls)
        val ids = ArrayList<List<Int>>()
        val encoding = seconds { texts.indices.mapTo(ids) { tokenizer.encode(texts[it], cases[it].flag("at_start")) } }
        val different = cases.indices.count { ids[it] != cases[it].ints("ids") || tokenizer.decode(ids[it]) != cases[it].text("decoded") }
        return "\"file_bytes\": ${content.size}, \"read\": $read, \"from_cache\": $kept, \"texts\": ${texts.size}, " +
            "\"tokens\": ${ids.sumOf { it.size }}, \"different\": $different, \"encode_seconds\": $encoding"
    }

    private fun spans(case: Case): List<Span> = case.list("spans").map { span ->
        val (isLiteral, text) = span as List<*>
        if (isLiteral == true) Span.Literal(text as String) else Span.PeopleText(text as String)
    }

    /** Seconds of the first time and the median of others; heap bytes kept, and at most while it is read. */
    private fun measured(read: () -> TokenizerParts): String {
        val first = seconds { read() }
        val others = List(REPEATS) { seconds { read() } }.sorted()
        System.gc()
        val pools = ManagementFactory.getMemoryPoolMXBeans().filter { it.type == MemoryType.HEAP }
        val before = pools.sumOf { it.usage.used }
        pools.forEach { it.resetPeakUsage() }
        val parts = read()
        val most = pools.sumOf { it.peakUsage.used } - before
        System.gc()
        val kept = pools.sumOf { it.usage.used } - before
        check(parts.vocabulary.size > 0)
        return "{\"first_seconds\": $first, \"seconds\": ${others[REPEATS / 2]}, \"heap_kept\": $kept, \"heap_most\": $most}"
    }

    private fun seconds(work: () -> Unit): Double {
        val threads = ManagementFactory.getThreadMXBean()
        val start = threads.currentThreadCpuTime
        work()
        return (threads.currentThreadCpuTime - start) / 1e9
    }
}
