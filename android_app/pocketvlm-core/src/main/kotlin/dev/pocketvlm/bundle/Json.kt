package dev.pocketvlm.bundle

import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.nio.charset.CodingErrorAction

/** A whole number beyond 64 bits, in its digits: allowed where any number is, and slow to make into a number. */
internal class Huge(val digits: String)

/** An object in the file's order, with each of a doubled key's values; by key, the last one counts, as in Python. */
internal class JsonObject(val pairs: List<Pair<String, Any?>>) : Map<String, Any?> by pairs.toMap()

/** What is wrong, and where: `vision.mean.1`, or nothing where it is the whole text. */
internal class Refused(val where: String, val why: String) : Exception("$where: $why")

/**
 * The one value of a text: a [JsonObject], a list, a string, a [Long], a [Huge], a [Double], a [Boolean] or null.
 * Strict RFC 8259: neither NaN nor numbers beyond a double, no comments, no
 * byte order mark, no half surrogates, at most 64 levels.
 *
 * @throws Refused where the text is none of it
 */
internal fun parseJson(text: ByteArray): Any? = JsonParser(decoded(text)).parse()

private const val MAX_DEPTH = 64

private fun decoded(text: ByteArray): String {
    val decoder = Charsets.UTF_8.newDecoder()
        .onMalformedInput(CodingErrorAction.REPORT)
        .onUnmappableCharacter(CodingErrorAction.REPORT)
    return try {
        decoder.decode(ByteBuffer.wrap(text)).toString()
    } catch (error: CharacterCodingException) {
        throw Refused("", "it is not UTF-8")
    }
}

private class JsonParser(private val text: String) {
    private var at = 0

    fun parse(): Any? {
        val value = value(0)
        if (peek() != null) fail()
        return value
    }

    /** The next character that is no white space, or null at the end. */
    private fun peek(): Char? {
        while (at < text.length && text[at] in " \t\r\n") at++
        return text.getOrNull(at)
    }

    private fun fail(why: String = "it is not JSON, or cut off,"): Nothing = throw Refused("", "$why at character $at")

    private fun expect(character: Char) {
        if (peek() != character) fail()
        at++
    }

    private fun value(depth: Int): Any? = when (peek()) {
        '{' -> container(depth) { readObject(depth + 1) }
        '[' -> container(depth) { readArray(depth + 1) }
        '"' -> string()
        't' -> word("true", true)
        'f' -> word("false", false)
        'n' -> word("null", null)
        else -> number()
    }

    private fun <T> container(depth: Int, read: () -> T): T {
        if (depth == MAX_DEPTH) fail("it is nested too deeply")
        at++
        return read()
    }

    private fun readObject(depth: Int): JsonObject {
        val pairs = ArrayList<Pair<String, Any?>>()
        if (ends('}')) return JsonObject(pairs)
        do {
            if (peek() != '"') fail()
            val key = string()
            expect(':')
            pairs.add(key to value(depth))
        } while (continues('}'))
        return JsonObject(pairs)
    }

    private fun readArray(depth: Int): List<Any?> {
        val values = ArrayList<Any?>()
        if (ends(']')) return values
        do values.add(value(depth)) while (continues(']'))
        return values
    }

    private fun ends(character: Char): Boolean {
        if (peek() != character) return false
        at++
        return true
    }

    /** Whether a comma follows, and not the [end]. */
    private fun continues(end: Char): Boolean {
        if (ends(',')) return true
        expect(end)
        return false
    }

    private fun <T> word(word: String, value: T): T {
        if (!text.startsWith(word, at)) fail()
        at += word.length
        return value
    }

    private fun number(): Any {
        val start = at
        ends('-')
        val whole = digits()
        if (whole == 0 || (whole > 1 && text[at - whole] == '0')) fail()
        var isWhole = true
        if (text.getOrNull(at) == '.') {
            at++
            isWhole = false
            if (digits() == 0) fail()
        }
        if (text.getOrNull(at) in EXPONENT) {
            at++
            isWhole = false
            if (text.getOrNull(at) in SIGNS) at++
            if (digits() == 0) fail()
        }
        val written = text.substring(start, at)
        if (isWhole) written.toLongOrNull()?.let { return it }
        val value = written.toDouble()
        if (value.isInfinite()) fail("a number is too large")
        return if (isWhole) Huge(written) else value
    }

    /** How many digits there are. */
    private fun digits(): Int {
        val start = at
        while (at < text.length && text[at] in '0'..'9') at++
        return at - start
    }

    private fun string(): String {
        at++
        val start = at
        while (at < text.length && text[at] != '"' && text[at] != '\\' && text[at] >= ' ') at++
        if (text.getOrNull(at) == '"') return text.substring(start, at++)
        val built = StringBuilder(text.substring(start, at))
        while (true) {
            val character = text.getOrNull(at) ?: fail()
            at++
            when {
                character == '"' -> break
                character < ' ' -> fail()
                character == '\\' -> built.append(escaped())
                else -> built.append(character)
            }
        }
        if (halfSurrogate(built)) fail("a string has half a surrogate")
        return built.toString()
    }

    private fun escaped(): Char {
        val letter = text.getOrNull(at++) ?: fail()
        if (letter != 'u') return ESCAPES[letter] ?: fail()
        val end = at + 4
        if (end > text.length) fail()
        var code = 0
        while (at < end) {
            val digit = text[at++]
            val value = if (digit < '\u0080') Character.digit(digit, 16) else -1
            if (value < 0) fail()
            code = code * 16 + value
        }
        return code.toChar()
    }

    private companion object {
        val EXPONENT = setOf<Char?>('e', 'E')
        val SIGNS = setOf<Char?>('+', '-')
        val ESCAPES = mapOf(
            '"' to '"', '\\' to '\\', '/' to '/', 'b' to '\b', 'f' to '\u000c', 'n' to '\n', 'r' to '\r', 't' to '\t',
        )

        fun halfSurrogate(text: CharSequence): Boolean {
            var at = 0
            while (at < text.length) {
                val paired = text[at].isHighSurrogate() && at + 1 < text.length && text[at + 1].isLowSurrogate()
                if (text[at].isSurrogate() && !paired) return true
                at += if (paired) 2 else 1
            }
            return false
        }
    }
}
