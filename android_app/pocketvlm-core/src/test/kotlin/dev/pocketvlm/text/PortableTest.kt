package dev.pocketvlm.text

import dev.pocketvlm.Case
import dev.pocketvlm.PocketVlmException.NotPortable
import dev.pocketvlm.bundle.parseJson
import dev.pocketvlm.folder
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** That the export says what this library says. */
class PortableTest {
    private val cases = Case(parseJson(folder("cases").resolve("portable.json").readBytes()))

    @Test
    fun `a tokenizer is read, or refused, as the export says`() {
        val files = cases.list("files").map { it as List<*> }
        assertTrue(files.count { it[1] == null } > 10 && files.count { it[1] != null } > 20)
        for ((content, why) in files) {
            val said = refusal { readTokenizer((content as String).toByteArray()) }
            assertEquals(content as String, why, said?.removePrefix("the tokenizer is not portable: "))
        }
    }

    @Test
    fun `a pattern is read, or refused, as the export says`() {
        val patterns = cases.list("patterns").map { it as List<*> }
        assertTrue(patterns.count { it[1] == true } > 100 && patterns.count { it[1] == false } > 300)
        val different = patterns.filter { (pattern, isRead) -> (refusal { portablePattern(pattern as String) } == null) != isRead }
        assertEquals(emptyList<Any>(), different)
    }

    private fun refusal(read: () -> Unit): String? = try {
        read()
        null
    } catch (refused: NotPortable) {
        refused.message
    }
}
