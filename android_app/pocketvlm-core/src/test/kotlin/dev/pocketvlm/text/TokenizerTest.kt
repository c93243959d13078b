package dev.pocketvlm.text

import dev.pocketvlm.Case
import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.NotPortable
import dev.pocketvlm.bundle.parseJson
import dev.pocketvlm.folder
import dev.pocketvlm.holdTo
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class TokenizerTest {
    private val folder = folder("cases").resolve("tokenizers")

    @Test
    fun `ids, texts and pieces are those of the tokenizers library`() {
        val files = checkNotNull(folder.listFiles { file -> file.extension == "json" }).sorted()
        assertTrue(files.size >= 9)
        for (file in files) {
            val parts = readTokenizer(file.readBytes())
            val lines = file.resolveSibling("${file.nameWithoutExtension}.jsonl").readLines()
            val cases = lines.map { Case(parseJson(it.toByteArray())) }
            // So many have what Java's own classes of letters do not know.
            val newer = cases.count { case -> case.list("spans").any { isNewer((it as List<*>)[1] as String) } }
            assertTrue("$newer of ${cases.size}", newer > cases.size / 10)
            val tokenizer = TextTokenizer(parts, cases[0].ints("controls"))
            holdTo(cases, "ids", "decoded", "pieces") { case -> found(tokenizer, case) }
        }
    }

    private fun isNewer(text: String): Boolean = text.codePoints().anyMatch { !Character.isDefined(it) }

    private fun found(tokenizer: TextTokenizer, case: Case): List<Any> {
        val spans = case.list("spans").map { span ->
            val (isLiteral, text) = span as List<*>
            if (isLiteral == true) Span.Literal(text as String) else Span.PeopleText(text as String)
        }
        val ids = case.ints("ids")
        val detokenizer = Detokenizer(tokenizer::decode)
        val pieces = ids.map(detokenizer::push) + detokenizer.flush()
        return listOf(tokenizer.encode(spans, case.flag("at_start")), tokenizer.decode(ids), pieces)
    }

    @Test
    fun `what people type is never a special token`() {
        val parts = readTokenizer(folder.resolve("qwen2.json").readBytes())
        val tokenizer = TextTokenizer(parts)
        val end = parts.vocabulary["<|im_end|>"]!!
        assertEquals(listOf(end), tokenizer.encode(listOf(Span.Literal("<|im_end|>"))))
        assertTrue(end !in tokenizer.encode(listOf(Span.PeopleText("a <|im_end|>"))))
        assertEquals("a \ufffd", tokenizer.decode(tokenizer.encode(listOf(Span.PeopleText("a \ud800")))))
    }

    @Test
    fun `a kind that is not read is named`() {
        val text = folder.resolve("qwen2.json").readText()
        for ((old, new, named) in listOf(
            Triple("\"BPE\"", "\"Unigram\"", "Unigram"),
            Triple("\"NFC\"", "\"NFKC\"", "NFKC"),
            Triple("\"Isolated\"", "\"Contiguous\"", "Contiguous"),
            Triple("\\\\p{N}|", "\\\\d|", "pattern"),
            Triple("\"dropout\":null", "\"dropout\":0.5", "random"),
        )) {
            assertTrue(old in text)
            val error = assertThrows(named, NotPortable::class.java) { readTokenizer(text.replace(old, new).toByteArray()) }
            assertTrue(error.message, named in error.message!!)
        }
    }

    @Test
    fun `a damaged file is one line`() {
        val text = folder.resolve("gpt2.json").readText()
        for (damaged in listOf("{}", "[]", text.dropLast(9), text.replaceFirst("\"vocab\":{", "\"vocab\":{\"no token\":-1,"))) {
            val error = assertThrows(BundleDamaged::class.java) { readTokenizer(damaged.toByteArray()) }
            assertTrue('\n' !in error.message!!)
        }
        assertThrows(BundleDamaged::class.java) { readTokenizer(text.replaceFirst("\"merges\":[", "\"merges\":[[\"qqq\",\"q\"],").toByteArray()) }
    }

    @Test
    fun `a pattern that could take long, or is read differently elsewhere, is refused`() {
        for (pattern in listOf("(a+)+", "(?:a|b)*", "\\w+", "\\d", "a.b", "^a", "a$", "(?i)a", "[a&&b]", "[[a]b]", "a++", "a+?",
            "a*b*c*d*", "(?<n>a)", "\\1", "[a", "(a", "a{2}{3}", "\\p{Han}", "x".repeat(2000))) {
            assertThrows(pattern, NotPortable::class.java) { portablePattern(pattern) }
        }
        portablePattern(GPT2)
    }

    @Test
    fun `what a match tries is bounded, and a long text needs no deep stack`() {
        val text = "a".repeat(200_000)
        assertEquals(listOf(text), isolated(portablePattern("(?:\\p{L}+|b)?"))(text, true))
        val slow = assertThrows(BundleDamaged::class.java) { isolated(portablePattern("a*a*a*b"))(text, true) }
        assertTrue("too long" in slow.message!!)
    }
}
