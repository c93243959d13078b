package dev.pocketvlm.text

/** Finds strings that end an answer, also where they span tokens; their first characters are held back. */
internal class StopStrings(private val stops: List<String>) {
    private val held = StringBuilder()

    /** Which characters of it are given out. */
    private val seen = ArrayList<Boolean>()

    /** Whether a stop string was found: its text and what follows are dropped. */
    var found: Boolean = false
        private set

    /**
     * The text that can be given out. Of several stop strings the one that begins first counts. [unseen] is a special
     * token's text behind [text]: stop strings may have it, and it is never given out.
     */
    fun push(text: String, unseen: String = ""): String {
        held.append(text).append(unseen)
        repeat(text.length) { seen.add(true) }
        repeat(unseen.length) { seen.add(false) }
        val start = stops.map { held.indexOf(it) }.filter { it >= 0 }.minOrNull()
            ?: return given(held.length - possibleStart())
        found = true
        return given(start).also { given(held.length) }
    }

    /** What was held back, at the end. */
    fun flush(): String = given(held.length)

    /** Takes the first characters that are held. */
    private fun given(count: Int): String {
        val text = (0 until count).filter { seen[it] }.map { held[it] }.joinToString("")
        held.delete(0, count)
        seen.subList(0, count).clear()
        return text
    }

    /** Length of the longest end of the text that could begin a stop string. */
    private fun possibleStart(): Int {
        val longest = minOf((stops.maxOfOrNull { it.length } ?: 1) - 1, held.length)
        return (longest downTo 1).firstOrNull { length ->
            val end = held.substring(held.length - length)
            stops.any { it.startsWith(end) }
        } ?: 0
    }
}
