package dev.pocketvlm.bundle

import dev.pocketvlm.Case
import dev.pocketvlm.PocketVlmException
import dev.pocketvlm.folder
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.util.Base64

/** Bundles that `tests/android` wrote, with what Python's reader says of each. */
class HostileTest {
    private val cases = folder("cases")

    @Test
    fun `manifests are refused where Python refuses them`() {
        val lines = cases.resolve("manifests.jsonl").readLines().map { Case(parseJson(it.toByteArray())) }
        assertTrue(lines.size > 300)
        val different = lines.mapNotNull { case ->
            val text = Base64.getDecoder().decode(case.text("text"))
            val said = refusal {
                val manifest = parseManifest(text, "manifest.json")
                if (case.flag("loads")) checkLoadable(manifest)
            }
            disagreement(case, said)
        }
        assertEquals(emptyList<String>(), different)
        assertNotNull("a reader that takes what Python refuses", disagreement(lines[0].with("refused", true), null))
    }

    @Test
    fun `bundles are refused where Python refuses them`() {
        val list = (parseJson(cases.resolve("bundles.json").readBytes()) as List<*>).map { Case(it) }
        assertTrue(list.size > 40)
        val different = list.mapNotNull { case ->
            val said = refusal { openBundle(File(case.text("path")), case.flag("verify")) }
            disagreement(case, said)
        }
        assertEquals(emptyList<String>(), different)
    }

    /** The line with which something is refused; null where it is taken. Whatever else is thrown is a fault. */
    private fun refusal(read: () -> Unit): String? = try {
        read()
        null
    } catch (error: PocketVlmException) {
        checkNotNull(error.message)
    }

    private fun disagreement(case: Case, said: String?): String? = when {
        said != null && (said.contains('\n') || said.length > 800) -> "$case: not one line: $said"
        (said != null) != case.flag("refused") -> "${case["name"] ?: case["path"]}: ${said ?: "taken"}"
        else -> null
    }
}
