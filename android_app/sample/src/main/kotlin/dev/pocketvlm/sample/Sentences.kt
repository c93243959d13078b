package dev.pocketvlm.sample

import java.text.BreakIterator
import java.util.Locale

/** Cuts a text that comes in pieces into sentences: what is read aloud, and what a screen reader says, at a time. */
internal class Sentences(locale: Locale) {
    private val breaks = BreakIterator.getSentenceInstance(locale)
    private var waiting = ""

    /** The sentences that [text] completes. A sentence is complete when another begins, since "38." may become "38.40". */
    fun add(text: String): List<String> {
        waiting += text
        breaks.setText(waiting)
        val complete = ArrayList<String>()
        var start = breaks.first()
        var end = breaks.next()
        while (end != BreakIterator.DONE && end < waiting.length) {
            complete.add(waiting.substring(start, end))
            start = end
            end = breaks.next()
        }
        waiting = waiting.substring(start)
        return complete.map { it.trim() }.filter { it.isNotEmpty() }
    }

    /** What is left when the text has ended. */
    fun rest(): List<String> {
        val last = waiting.trim()
        waiting = ""
        return listOf(last).filter { it.isNotEmpty() }
    }
}
