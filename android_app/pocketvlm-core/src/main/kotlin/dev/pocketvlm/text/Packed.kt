package dev.pocketvlm.text

private const val BASE = 46

/** The numbers of a table that `android_app/unicode_tables.py` packed, one after the other. */
internal class Packed(private val text: String) {
    private var at = 0

    val hasNext: Boolean get() = at < text.length

    fun next(): Int {
        var number = 0
        while (true) {
            val digit = digitOf(text[at++])
            if (digit < BASE) return number * BASE + digit
            number = number * BASE + digit - BASE
        }
    }

    /** Of the printable letters of ASCII, without those that Kotlin's strings escape. */
    private fun digitOf(letter: Char): Int {
        val skipped = ESCAPED.count { it < letter }
        return letter - ' ' - skipped
    }

    private companion object {
        const val ESCAPED = "\"$\\"
    }
}
