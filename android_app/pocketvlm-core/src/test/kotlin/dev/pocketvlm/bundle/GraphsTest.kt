package dev.pocketvlm.bundle

import dev.pocketvlm.Case
import dev.pocketvlm.bundle.graphs.GraphRefused
import dev.pocketvlm.bundle.graphs.checkGraph
import dev.pocketvlm.folder
import dev.pocketvlm.golden
import dev.pocketvlm.holdTo
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.nio.ByteBuffer
import java.util.Base64
import java.util.concurrent.TimeUnit

/** Graphs, with the words in which Python's reader refuses them. */
class GraphsTest {
    @Test
    fun `golden graphs are refused in the same words`() {
        val golden = Case(golden("graphs.json"))
        val cases = golden.cases("cases")
        assertTrue(cases.size > 150)
        holdTo(cases, "refused") { listOf(refusal(decoded(it), golden)) }
    }

    @Test
    fun `hostile, exported and changed graphs are refused in the same words`() {
        val cases = folder("cases").resolve("graphs.jsonl").readLines().map { Case(parseJson(it.toByteArray())) }
        for (kind in listOf("edits", "cut", "changed")) {
            assertTrue(kind, cases.count { it.text("name").startsWith(kind) } > 100)
        }
        assertTrue("none is taken", cases.count { it["refused"] == null } > 50)
        holdTo(cases, "refused") { listOf(refusal(content(it), it)) }
    }

    @Test
    fun `many long names take little memory`() {
        val java = File(System.getProperty("java.home")).resolve("bin/java").path
        val main = "dev.pocketvlm.bundle.LongNamesKt"
        val command = listOf(java, "-Xmx96m", "-XX:MaxDirectMemorySize=256m", "-cp", System.getProperty("java.class.path"), main)
        val process = ProcessBuilder(command).redirectErrorStream(true).start()
        val said = process.inputStream.readBytes().decodeToString()
        assertTrue(process.waitFor(10, TimeUnit.MINUTES))
        assertEquals("node 0, Add: it reads what is not there yet", said.trim())
    }

    private fun decoded(case: Case): ByteArray = Base64.getDecoder().decode(case.text("graph"))

    private fun content(case: Case): ByteArray {
        if (case["graph"] != null) return decoded(case)
        val content = File(case.text("file")).readBytes()
        for (edit in (case["edits"] as List<*>?).orEmpty()) {
            val (at, value) = (edit as List<*>).map { (it as Long).toInt() }
            content[at] = value.toByte()
        }
        return content.copyOf(content.size - (case.intOrNull("cut") ?: 0))
    }
}

/** Why a graph is refused; null where it is taken. */
internal fun refusal(graph: ByteArray, of: Case): String? = try {
    val numbers = { key: String -> Case(of[key]).toMap().entries.associate { (name, size) -> name as String to size as Long } }
    checkGraph(ByteBuffer.wrap(graph), numbers("sizes"), numbers("data"))
    null
} catch (error: GraphRefused) {
    error.message
}
