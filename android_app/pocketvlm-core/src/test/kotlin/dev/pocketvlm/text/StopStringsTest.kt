package dev.pocketvlm.text

import dev.pocketvlm.Case
import dev.pocketvlm.golden
import dev.pocketvlm.holdTo
import org.junit.Assert.assertEquals
import org.junit.Test

class StopStringsTest {
    @Test
    fun `answers end where they do everywhere`() {
        holdTo(Case(golden("stop_strings.json")).cases("cases"), "pieces", "found", "rest") { case ->
            val stops = StopStrings(case.list("stops").map { it as String })
            val pieces = ArrayList<String>()
            for (token in case.list("tokens")) {
                pieces.add(stops.push(token as String))
                if (stops.found) break
            }
            listOf(pieces, stops.found, if (stops.found) "" else stops.flush())
        }
    }

    @Test
    fun `a special token's text ends an answer and is not given out`() {
        val stops = StopStrings(listOf("b<end>"))
        assertEquals("a", stops.push("ab", ""))
        assertEquals("", stops.push("", "<end>"))
        assertEquals(true, stops.found)
        val others = StopStrings(listOf("<end>!"))
        assertEquals("a", others.push("a", "<end>"))
        assertEquals("c", others.push("c"))
    }
}
