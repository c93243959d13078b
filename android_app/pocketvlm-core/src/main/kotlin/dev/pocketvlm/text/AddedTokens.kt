package dev.pocketvlm.text

/** A token that is looked for in the text itself; [lstrip], [rstrip]: white space beside it is its own. */
internal class AddedToken(
    val id: Int,
    val content: String,
    val lstrip: Boolean,
    val rstrip: Boolean,
    val normalized: Boolean,
    val isSpecial: Boolean,
)

/** Finds tokens in a text: the one that begins first, and of those the longest; special ones are passed over as text. */
internal class AddedTokens(tokens: Collection<AddedToken>) {
    private val byLetter = tokens.sortedByDescending { it.content.length }.groupBy { it.content[0] }

    /** The text in pieces: strings, and tokens where they stand. */
    fun split(text: String): List<Any> {
        if (byLetter.isEmpty() || text.isEmpty()) return listOf(text)
        val pieces = ArrayList<Any>()
        var end = 0
        var at = 0
        while (at < text.length) {
            val token = byLetter[text[at]]?.firstOrNull { text.startsWith(it.content, at) }
            if (token == null || token.isSpecial) {
                at += token?.content?.length ?: 1
                continue
            }
            var start = at
            at += token.content.length
            if (token.lstrip) while (start > end && text[start - 1] in WHITE_SPACE) start--
            if (token.rstrip) while (at < text.length && text[at] in WHITE_SPACE) at++
            if (start > end) pieces.add(text.substring(end, start))
            pieces.add(token)
            end = at
        }
        if (end < text.length) pieces.add(text.substring(end))
        return pieces
    }
}
