package dev.pocketvlm.text

/** GPT-2's letters for bytes: printable ones stand for themselves. */
internal val BYTE_LETTERS: CharArray = CharArray(256).also { letters ->
    var others = 0
    for (byte in 0..255) {
        val isPrintable = byte in 33..126 || byte in 161..172 || byte in 174..255
        letters[byte] = if (isPrintable) byte.toChar() else (256 + others++).toChar()
    }
}

/** What happens to a text before it is cut into words. */
internal typealias Normalize = (String) -> String

internal fun prepend(prefix: String): Normalize = { if (it.isEmpty()) it else prefix + it }

/**
 * One step that cuts pieces into smaller ones, or changes them. `isFirst` says that a piece begins the whole text.
 */
internal typealias Cut = (piece: String, isFirst: Boolean) -> List<String>

/** Each match a piece of its own, and what stands between two. */
internal fun isolated(pattern: Pattern): Cut = { piece, _ ->
    val pieces = ArrayList<String>()
    var end = 0
    pattern.each(piece) { from, to ->
        if (from > end) pieces.add(piece.substring(end, from))
        if (to > from) pieces.add(piece.substring(from, to))
        end = to
    }
    if (end < piece.length) pieces.add(piece.substring(end))
    pieces
}

/** Each occurrence of [text] a piece of its own, and what stands between two. */
internal fun isolated(text: String): Cut = { piece, _ ->
    val pieces = ArrayList<String>()
    var end = 0
    for (from in occurrences(piece, text)) {
        if (from > end) pieces.add(piece.substring(end, from))
        end = from + text.length
        pieces.add(text)
    }
    if (end < piece.length) pieces.add(piece.substring(end))
    pieces
}

/** Each occurrence of [text] begins a piece. */
internal fun withNext(text: String): Cut = { piece, _ ->
    val starts = occurrences(piece, text)
    (listOf(0) + starts).distinct().zip(starts.filter { it > 0 } + piece.length) { from, to -> piece.substring(from, to) }
}

/** Each occurrence of [text] ends a piece. */
internal fun withPrevious(text: String): Cut = { piece, _ ->
    val ends = occurrences(piece, text).map { it + text.length }
    (listOf(0) + ends).zip((ends + piece.length).distinct()) { from, to -> piece.substring(from, to) }
}

private fun occurrences(piece: String, text: String): List<Int> =
    generateSequence(piece.indexOf(text)) { piece.indexOf(text, it + text.length) }.takeWhile { it >= 0 }.toList()

/** Bytes as letters, perhaps behind a space. */
internal fun byteLevel(addPrefixSpace: Boolean): Cut = { piece, _ ->
    val text = if (addPrefixSpace && !piece.startsWith(' ')) " $piece" else piece
    val bytes = text.toByteArray()
    listOf(String(CharArray(bytes.size) { BYTE_LETTERS[bytes[it].toInt() and 255] }))
}

/** Spaces as [letter], which is put before the text: `always`, only at its `first` piece, or `never`. */
internal fun metaspace(letter: String, scheme: String, split: Boolean): Cut = { piece, isFirst ->
    val spaced = piece.replace(" ", letter)
    val isPrefixed = (scheme == "always" || (scheme == "first" && isFirst)) && !spaced.startsWith(letter)
    val whole = if (isPrefixed) letter + spaced else spaced
    if (split) withNext(letter)(whole, isFirst) else listOf(whole)
}
