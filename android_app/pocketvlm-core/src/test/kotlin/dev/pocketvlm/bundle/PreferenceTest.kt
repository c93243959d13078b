package dev.pocketvlm.bundle

import dev.pocketvlm.Case
import dev.pocketvlm.Options
import dev.pocketvlm.PocketVlm
import dev.pocketvlm.PocketVlmException.NotPortable
import dev.pocketvlm.golden
import dev.pocketvlm.holdTo
import dev.pocketvlm.lines
import dev.pocketvlm.withModel
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File

class PreferenceTest {
    @get:Rule
    val temporary = TemporaryFolder()
    private val bundle = File(lines("questions.jsonl")[0].text("bundle"))

    @Test
    fun `each machine takes the engine that Python takes, for the same reasons`() {
        val cases = (golden("engines.json") as List<*>).map { Case(it) }
        assertTrue(cases.size > 30)
        holdTo(cases, "chosen", "skipped") { case ->
            val choice = choose(readPreference(Reader(case["engines"])), machineOf(Case(case["machine"])))
            listOf(choice.engine, choice.skipped.map { listOf(it.key, it.value) })
        }
    }

    @Test
    fun `versions are compared by their numbers`() {
        assertTrue(isOlder("1.9", "1.10"))
        assertTrue(isOlder("unknown", "1"))
        assertFalse(isOlder("1.29.0-rc1", "1.29"))
        assertFalse(isOlder("99999999999999999999", "1"))
    }

    @Test
    fun `a better engine that this library has not is skipped with the reason`() {
        val other = preferring("""{"engine": "executorch", "chips": ["MT6989"]}, {"engine": "onnx"}""")
        val info = PocketVlm.inspect(other)
        assertEquals("onnx", info.engine)
        assertEquals(mapOf("executorch" to "this program has no engine for it"), info.skipped)
        withModel(other) { model ->
            assertEquals("onnx", model.backend.engine)
            assertEquals(info.skipped, model.backend.skipped)
        }
        withModel(other, Options(threads = 1, engine = "onnx")) { assertEquals(emptyMap<String, String>(), it.backend.skipped) }
    }

    @Test
    fun `a bundle that nothing here runs is refused with each reason`() {
        val other = preferring("""{"engine": "executorch"}, {"engine": "onnx", "abis": ["x86"]}""")
        assertNull(PocketVlm.inspect(other).engine)
        val error = assertThrows(NotPortable::class.java) { withModel(other) {} }
        assertTrue(error.message, "executorch: this program has no engine for it; onnx: it is for x86, and this" in error.message.orEmpty())
    }

    @Test
    fun `an engine is refused by its name`() {
        val error = assertThrows(NotPortable::class.java) { withModel(bundle, Options(threads = 1, engine = "qnn\n")) {} }
        assertEquals("this library has no engine qnn : it runs onnx", error.message)
    }

    /** The built-in model, with this preference and parts of ExecuTorch, which are none. */
    private fun preferring(engines: String): File {
        val other = temporary.newFolder().also { bundle.copyRecursively(it, overwrite = true) }
        val manifest = other.resolve("manifest.json")
        val text = manifest.readText().replaceFirst(Regex("\"format_version\": *[0-9]+"), "\"format_version\": 4")
            .replaceFirst(Regex("\"engines\": *\\{"), "\"preference\": [$engines], \"engines\": {\"executorch\": {}, ")
        manifest.writeText(text)
        return other
    }

    private fun machineOf(case: Case) = MachineFacts(
        engines = case.list("engines").map { it as String }.toSet(),
        chip = case["chip"] as String?,
        abi = case.text("abi"),
        versions = strings(case["versions"]),
        files = case.list("files").map { it as String }.toSet(),
        failed = strings(case["failed"]).mapValues { checkNotNull(it.value) },
    )

    private fun strings(value: Any?): Map<String, String?> =
        (value as JsonObject).pairs.associate { (key, one) -> key to one as String? }
}
