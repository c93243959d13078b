package dev.pocketvlm.text

private const val REPLACEMENT = '\ufffd'

/**
 * Text of a growing sequence of tokens, given out in whole characters. A token may end inside a character: its text then
 * waits for the rest. Each step decodes the last few tokens again, since a token's text can depend on the one before it.
 */
internal class Detokenizer(private val decode: (List<Int>) -> String) {
    private var given: List<Int> = emptyList() // the tokens before the window's new part, as context
    private var waiting: List<Int> = emptyList()

    /** The text that this token completes, perhaps none. */
    fun push(tokenId: Int): String {
        waiting = waiting + tokenId
        val text = newText()
        if (text.isEmpty() || text.last() == REPLACEMENT) return ""
        given = waiting
        waiting = emptyList()
        return text
    }

    /** What still waits, at the end. An unfinished character is dropped. */
    fun flush(): String {
        val text = if (waiting.isEmpty()) "" else newText().trimEnd(REPLACEMENT)
        waiting = emptyList()
        return text
    }

    private fun newText(): String = decode(given + waiting).drop(decode(given).length)
}
