package dev.pocketvlm.text

import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.bundle.Reader
import dev.pocketvlm.bundle.Refused
import dev.pocketvlm.bundle.parseJson
import java.io.ByteArrayOutputStream
import java.nio.ByteBuffer
import java.nio.CharBuffer
import java.nio.charset.CodingErrorAction

/** Entries of a vocabulary or of merges, and characters of a token, as in `pocketvlm/bundle/tokenizer.py`. */
private const val MAX_ENTRIES = 1 shl 20
private const val MAX_CHARACTERS = 1024
internal const val MAX_TOKEN_BYTES: Int = 4 * MAX_CHARACTERS
private const val NO_PAIR = "a merge is no pair of tokens"

/**
 * A `tokenizer.json` whose two large parts are read: [merges] are left, right and merged number of each, by rank, and
 * [rest] is the file with nothing in their places.
 */
internal class PackedTokenizer(val rest: ByteArray, val vocabulary: Vocabulary, val merges: IntArray)

/** A file in three: what is small, as JSON, and where its vocabulary and merges stand. */
internal class TokenizerSections(private val content: ByteArray) {
    private val vocabularyAt: Int
    private val mergesAt: Int
    val rest: ByteArray

    init {
        checkUtf8(content)
        val cuts = Cuts(content)
        cuts.find()
        rest = cuts.rest()
        vocabularyAt = cuts.starts["vocab"] ?: -1
        mergesAt = cuts.starts["merges"] ?: -1
    }

    /** [vocab] and [merges] are for errors. @throws Refused they are no JSON, or of another kind */
    fun read(vocab: Reader, merges: Reader): PackedTokenizer {
        if (vocabularyAt < 0 || content[vocabularyAt] != '{'.code.toByte()) vocab.refuse("it must be an object")
        if (mergesAt < 0 || content[mergesAt] != '['.code.toByte()) merges.refuse("it must be a list")
        val tokens = VocabularyReader(content, vocabularyAt, vocab).read()
        return PackedTokenizer(rest, tokens, MergesReader(content, mergesAt, merges, tokens).read())
    }
}

private fun checkUtf8(content: ByteArray) {
    val decoder = Charsets.UTF_8.newDecoder().onMalformedInput(CodingErrorAction.REPORT)
    val bytes = ByteBuffer.wrap(content)
    val characters = CharBuffer.allocate(1 shl 13)
    do {
        characters.clear()
        val result = decoder.decode(bytes, characters, true)
        if (result.isError) throw Refused("", "it is not UTF-8")
    } while (result.isOverflow)
}

/** Reads JSON from [at] on. */
private open class Bytes(protected val content: ByteArray, protected var at: Int) {
    /** The string that was read last: where, and in which bytes. */
    protected var text = content
    protected var from = 0
    protected var to = 0

    protected fun fail(): Nothing = throw Refused("", "it is not JSON, or cut off, at byte $at")

    /** The next byte that is no white space; 0 at the end. */
    protected fun peek(): Char {
        while (at < content.size) {
            val letter = content[at].toInt().toChar()
            if (letter != ' ' && letter != '\n' && letter != '\r' && letter != '\t') return letter
            at++
        }
        return '\u0000'
    }

    protected fun expect(letter: Char) {
        if (peek() != letter) fail()
        at++
    }

    protected fun take(letter: Char): Boolean = (peek() == letter).also { if (it) at++ }

    /** Reads a string as [text] from [from] to [to]. */
    protected fun string() {
        expect('"')
        val start = at
        var isEscaped = false
        while (true) {
            val byte = if (at < content.size) content[at].toInt() else fail()
            if (byte == '"'.code) break
            if (byte in 0..31) fail()
            if (byte == '\\'.code) {
                isEscaped = true
                at++
            }
            at++
        }
        text = content
        from = start
        to = at++
        if (isEscaped) {
            text = (parseJson(content.copyOfRange(start - 1, to + 1)) as String).toByteArray()
            from = 0
            to = text.size
        }
    }
}

/** Where the vocabulary and the merges of the model stand. Their place is left out, so the rest is read strictly. */
private class Cuts(content: ByteArray) : Bytes(content, 0) {
    val starts = HashMap<String, Int>()
    private val kept = ByteArrayOutputStream()
    private var end = 0

    fun find() {
        if (peek() != '{') return
        val seen = HashSet<String>()
        members { key -> if (key == "model" && once(seen, key) && peek() == '{') members(::part) else skip() }
    }

    fun rest(): ByteArray {
        kept.write(content, end, content.size - end)
        end = content.size
        return kept.toByteArray()
    }

    private fun once(seen: MutableSet<String>, key: String): Boolean =
        seen.add(key) || throw Refused(key, "it is there twice")

    private fun part(key: String) {
        val open = peek()
        if ((key != "vocab" && key != "merges") || (open != '{' && open != '[')) return skip()
        if (starts.put(key, at) != null) throw Refused("model.$key", "it is there twice")
        kept.write(content, end, at - end)
        kept.write(if (open == '{') "{}".toByteArray() else "[]".toByteArray())
        skip()
        end = at
    }

    private inline fun members(each: (String) -> Unit) {
        expect('{')
        if (take('}')) return
        do {
            string()
            val key = String(text, from, to - from, Charsets.UTF_8)
            expect(':')
            each(key)
        } while (take(','))
        expect('}')
    }

    /** Passes a value whose syntax somebody else looks at. */
    private fun skip() {
        var depth = 0
        do {
            when (peek()) {
                '\u0000' -> fail()
                '"' -> {
                    pass()
                    continue
                }
                '{', '[' -> depth++
                '}', ']' -> depth--
                else -> if (depth == 0) {
                    while (at < content.size && content[at].toInt().toChar() !in ",}] \t\r\n") at++
                    return
                }
            }
            at++
        } while (depth > 0)
    }

    /** Passes a string. */
    private fun pass() {
        at++
        while (at < content.size && content[at] != '"'.code.toByte()) at += if (content[at] == '\\'.code.toByte()) 2 else 1
        if (at >= content.size) fail()
        at++
    }
}

private class VocabularyReader(content: ByteArray, start: Int, private val where: Reader) : Bytes(content, start) {
    private val bytes = ByteArrayOutputStream(1 shl 16)
    private val ends = Ints()
    private val ids = Ints()

    fun read(): Vocabulary {
        expect('{')
        if (!take('}')) {
            do {
                string()
                add()
                expect(':')
                ids.add(number())
            } while (take(','))
            expect('}')
        }
        return Vocabulary(bytes.toByteArray(), ends.all(), ids.all())
    }

    private fun add() {
        val characters = (from until to).count { text[it].toInt() and 0xc0 != 0x80 }
        if (characters > MAX_CHARACTERS) where.refuse("a token has more than $MAX_CHARACTERS characters")
        if (ends.size == MAX_ENTRIES) where.refuse("it has more than $MAX_ENTRIES tokens")
        bytes.write(text, from, to - from)
        ends.add(bytes.size())
    }

    private fun number(): Int {
        peek()
        val start = at
        while (at < content.size && content[at].toInt().toChar() !in ",} \t\r\n") at++
        val length = at - start
        val isPlain = length in 1..10 && (length == 1 || content[start] != '0'.code.toByte())
        if (!isPlain || (start until at).any { content[it].toInt().toChar() !in '0'..'9' }) noNumber()
        var number = 0L
        for (index in start until at) number = 10 * number + (content[index] - '0'.code)
        return if (number <= Int.MAX_VALUE) number.toInt() else noNumber()
    }

    private fun noNumber(): Nothing = where.refuse("a token has no number")
}

/** Pairs; older files write them with a space between, and a first line that begins with #version. */
private class MergesReader(content: ByteArray, start: Int, private val where: Reader, private val vocabulary: Vocabulary) :
    Bytes(content, start) {
    private val merges = Ints()
    private val joined = ByteArray(2 * MAX_TOKEN_BYTES)
    private var length = 0

    fun read(): IntArray {
        expect('[')
        if (!take(']')) {
            do merge() while (take(','))
            expect(']')
        }
        return merges.all()
    }

    private fun merge() {
        if (merges.size == 3 * MAX_ENTRIES) where.refuse("it has more than $MAX_ENTRIES merges")
        length = 0
        when (peek()) {
            '[' -> {
                at++
                val left = token()
                if (!take(',')) where.refuse(NO_PAIR)
                val right = token()
                if (!take(']')) where.refuse(NO_PAIR)
                add(left, right)
            }
            '"' -> {
                string()
                if (merges.size > 0 || !isVersion()) written()
            }
            else -> where.refuse(NO_PAIR)
        }
    }

    private fun isVersion(): Boolean = String(text, from, minOf(8, to - from), Charsets.UTF_8) == "#version"

    private fun token(): Int {
        if (peek() != '"') where.refuse(NO_PAIR)
        string()
        return part(from, to)
    }

    private fun written() {
        val bytes = text
        var space = -1
        for (at in from until to) if (bytes[at] == ' '.code.toByte()) space = if (space < 0) at else where.refuse(NO_PAIR)
        if (space < 0) where.refuse(NO_PAIR)
        add(part(from, space), part(space + 1, to))
    }

    private fun part(from: Int, to: Int): Int {
        if (to - from > joined.size - length) noToken()
        text.copyInto(joined, length, from, to)
        length += to - from
        return vocabulary.find(text, from, to)
    }

    private fun add(left: Int, right: Int) {
        val merged = vocabulary.find(joined, 0, length)
        if (left < 0 || right < 0 || merged < 0) noToken()
        for (id in intArrayOf(left, right, merged)) merges.add(id)
    }

    private fun noToken(): Nothing = throw BundleDamaged("tokenizer.json: a merge has or gives no token of the vocabulary")
}

/** A growing list of numbers. */
private class Ints {
    private var numbers = IntArray(1 shl 10)
    var size = 0
        private set

    fun add(number: Int) {
        if (size == numbers.size) numbers = numbers.copyOf(2 * size)
        numbers[size++] = number
    }

    fun all(): IntArray = numbers.copyOf(size)
}
