package dev.pocketvlm.text

/** One step on the way from tokens to text. */
internal typealias Decode = (List<String>) -> List<String>

private val LETTER_BYTES = BYTE_LETTERS.withIndex().associate { (byte, letter) -> letter to byte.toByte() }
private val BYTE_TOKEN = Regex("<0x([0-9A-Fa-f]{2})>")

/** Letters to bytes, of all tokens together; a token with other letters is text. */
internal fun fromByteLevel(tokens: List<String>): List<String> {
    val bytes = java.io.ByteArrayOutputStream()
    for (token in tokens) {
        val known = token.map { LETTER_BYTES[it] }
        bytes.write(if (null in known) token.toByteArray() else known.map { it!! }.toByteArray())
    }
    return listOf(utf8(bytes.toByteArray()))
}

/**
 * With U+FFFD for each part of a character that is none, as elsewhere: the JVM has one for all bytes of half a surrogate
 * pair, where each is one.
 */
private fun utf8(bytes: ByteArray): String {
    val text = StringBuilder()
    var from = 0
    for (at in 1 until bytes.size) {
        val isSurrogate = bytes[at - 1] == 0xed.toByte() && bytes[at] in 0xa0.toByte()..0xbf.toByte()
        if (!isSurrogate) continue
        text.append(String(bytes, from, at - from, Charsets.UTF_8))
        from = at
    }
    return text.append(String(bytes, from, bytes.size - from, Charsets.UTF_8)).toString()
}

/** Tokens `<0x0A>` in a row to their text, or where they are no UTF-8, each to U+FFFD. */
internal fun fromByteTokens(tokens: List<String>): List<String> {
    val texts = ArrayList<String>()
    val bytes = ArrayList<Byte>()
    val endRun = {
        val text = String(bytes.toByteArray(), Charsets.UTF_8)
        // A text that has U+FFFD is given back the same by its own bytes.
        if (text.toByteArray().contentEquals(bytes.toByteArray())) texts.add(text) else bytes.mapTo(texts) { "\ufffd" }
        bytes.clear()
    }
    for (token in tokens) {
        val byte = BYTE_TOKEN.matchEntire(token)?.groupValues?.get(1)?.toInt(16)
        if (byte != null) {
            bytes.add(byte.toByte())
        } else {
            if (bytes.isNotEmpty()) endRun()
            texts.add(token)
        }
    }
    if (bytes.isNotEmpty()) endRun()
    return texts
}

internal fun replaced(from: String, to: String): Decode = { tokens -> tokens.map { it.replace(from, to) } }

internal fun fused(tokens: List<String>): List<String> = listOf(tokens.joinToString(""))

/** Up to [count] letters less at the beginning of each. */
internal fun stripped(letter: String, count: Int): Decode = { tokens ->
    tokens.map { token -> token.drop(minOf(count, token.takeWhile { it.toString() == letter }.length)) }
}

/** Spaces for [letter], but none at the first token, where one was put. */
internal fun fromMetaspace(letter: String, scheme: String): Decode = { tokens ->
    tokens.mapIndexed { index, token -> token.replace(letter, if (index == 0 && scheme != "never") "" else " ") }
}
