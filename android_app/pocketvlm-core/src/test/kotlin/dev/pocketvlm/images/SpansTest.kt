package dev.pocketvlm.images

import dev.pocketvlm.Case
import dev.pocketvlm.golden
import dev.pocketvlm.holdTo
import org.junit.Assert.assertEquals
import org.junit.Test

/** Which tokens see what is behind them, and where chunks end. */
class SpansTest {
    @Test
    fun `spans and chunks are Python's`() {
        holdTo(Case(golden("spans.json")).cases("spans"), "last_seen", "ends") { case ->
            val seen = lastSeenOf(case.ints("pictures").toIntArray(), case["spans"] as String)
            val ends = ArrayList<Int>()
            while ((ends.lastOrNull() ?: 0) < seen.size) ends.add(endOfChunk(seen, ends.lastOrNull() ?: 0, case.int("most")))
            listOf(seen.toList(), ends)
        }
    }

    @Test
    fun `a span begins with its first token`() {
        val seen = lastSeenOf(intArrayOf(-1, 0, 0, 0, -1), "image")
        assertEquals(listOf(0, 1, 1, 1, 4), seen.indices.map { beginOfSpan(seen, it) })
    }
}
