package dev.pocketvlm.text

import dev.pocketvlm.folder
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.util.Random

class DetokenizerTest {
    private val random = Random(11)

    @Test
    fun `wherever an answer is cut, what was given out is whole characters of its text`() {
        var halves = 0
        for (kind in listOf("gpt2", "qwen2", "llama2", "metaspace", "gemma")) {
            val tokenizer = TextTokenizer(readTokenizer(folder("cases").resolve("tokenizers/$kind.json").readBytes()))
            repeat(40) {
                val ids = tokenizer.encode(listOf(Span.PeopleText("a" + drawn())))
                val text = tokenizer.decode(ids)
                halves += ids.count { "\ufffd" in tokenizer.decode(listOf(it)) }
                for (count in 0..ids.size) {
                    val detokenizer = Detokenizer(tokenizer::decode)
                    val given = ids.take(count).map(detokenizer::push) + detokenizer.flush()
                    for (piece in given) assertEquals(wellFormed(piece), piece)
                    assertTrue("$kind: $given of $text", text.startsWith(given.joinToString("")))
                    if (count == ids.size) assertEquals(text, given.joinToString(""))
                }
            }
        }
        assertTrue("$halves tokens are half a character", halves > 500)
    }

    @Test
    fun `bytes that are half a surrogate pair are replaced one by one, as Python's are`() {
        val text = { bytes: List<Int> -> fromByteLevel(bytes.map { BYTE_LETTERS[it].toString() }).single() }
        assertEquals("\ufffd\ufffd\ufffdA\ufffd\ufffdA", text(listOf(0xed, 0xba, 0x80, 0x41, 0xed, 0xba, 0x41)))
        assertEquals("\ud7ff\ufffdA\ufffd", text(listOf(0xed, 0x9f, 0xbf, 0xed, 0x41, 0xed)))
    }

    /** Letters of one to four bytes in UTF-8. */
    private fun drawn(): String = buildString {
        repeat(random.nextInt(12)) {
            val (first, last) = listOf(32 to 127, 0xa0 to 0x500, 0x4e00 to 0x9fff, 0x1f300 to 0x1f9ff, 0x1e030 to 0x1e090)[random.nextInt(5)]
            appendCodePoint(first + random.nextInt(last - first))
        }
    }
}
