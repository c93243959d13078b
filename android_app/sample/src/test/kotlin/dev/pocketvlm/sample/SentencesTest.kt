package dev.pocketvlm.sample

import org.junit.Assert.assertEquals
import org.junit.Test
import java.util.Locale

class SentencesTest {
    private fun cut(text: String, size: Int): List<String> {
        val sentences = Sentences(Locale.ENGLISH)
        return text.chunked(size).flatMap(sentences::add) + sentences.rest()
    }

    @Test
    fun `sentences are the same however the text comes`() {
        val text = "The total is 38.40 euros. Paid in cash! Is that all? Yes"
        val whole = listOf("The total is 38.40 euros.", "Paid in cash!", "Is that all?", "Yes")
        for (size in 1..text.length) assertEquals("in pieces of $size", whole, cut(text, size))
    }

    @Test
    fun `a sentence is said once another begins, and nothing is said of nothing`() {
        val sentences = Sentences(Locale.ENGLISH)
        assertEquals(emptyList<String>(), sentences.add("It is 38."))
        assertEquals(emptyList<String>(), sentences.add("40."))
        assertEquals(listOf("It is 38.40."), sentences.add(" And"))
        assertEquals(listOf("And"), sentences.rest())
        assertEquals(emptyList<String>(), sentences.rest())
        assertEquals(emptyList<String>(), sentences.add(" \n "))
        assertEquals(emptyList<String>(), sentences.rest())
    }
}
