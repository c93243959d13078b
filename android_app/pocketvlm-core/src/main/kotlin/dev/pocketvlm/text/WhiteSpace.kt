package dev.pocketvlm.text

/** Unicode's White_Space, spelled out: the JVM, Android and Rust each have another idea of it. */
internal const val WHITE_SPACE: String =
    "\t\n\u000b\u000c\r \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a" +
        "\u2028\u2029\u202f\u205f\u3000"

/** The text with each half of a surrogate pair, which no encoder takes, as U+FFFD. */
internal fun wellFormed(text: String): String {
    if (text.none { it.isSurrogate() }) return text
    val built = StringBuilder(text.length)
    var at = 0
    while (at < text.length) {
        val point = text.codePointAt(at)
        at += Character.charCount(point)
        if (point in 0xd800..0xdfff) built.append('\ufffd') else built.appendCodePoint(point)
    }
    return built.toString()
}
