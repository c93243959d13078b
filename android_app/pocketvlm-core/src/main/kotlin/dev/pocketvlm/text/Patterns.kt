package dev.pocketvlm.text

import dev.pocketvlm.PocketVlmException.NotPortable
import dev.pocketvlm.bundle.oneLine
import java.util.regex.Pattern
import java.util.regex.PatternSyntaxException

private const val MAX_LENGTH = 1024
private const val MAX_ENDLESS = 3
private const val CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
private const val EXPANDED = "(?:'(?:[sS\\x{17f}]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD]))"
private val COUNT = Regex("\\{[0-9]{1,3}(,[0-9]{0,3})?\\}")
private val PROPERTY = Regex("\\\\p\\{(L|Lu|Ll|Lt|Lm|Lo|M|N|P|S)\\}")

/** GPT-2's, which `ByteLevel` splits by. */
internal const val GPT2: String = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/**
 * A pattern of a tokenizer that finds the same on the JVM, on Android (ICU) and by the tokenizers library (Oniguruma):
 * flags and white space are spelled out. What is read differently there, or repeats what repeats, is refused.
 *
 * @throws NotPortable naming the pattern
 */
internal fun portablePattern(regex: String): Pattern {
    val written = regex.replace(CONTRACTIONS, EXPANDED)
    if (regex.length > MAX_LENGTH) refusePattern(regex)
    val portable = PatternReader(written) { refusePattern(regex) }.read()
    return try {
        Pattern.compile(portable)
    } catch (error: PatternSyntaxException) {
        refusePattern(regex)
    }
}

private fun refusePattern(regex: String): Nothing =
    throw NotPortable("the tokenizer splits by a pattern that not every platform reads alike: ${oneLine(regex, 80)}")

private class PatternReader(private val text: String, private val refuse: () -> Nothing) {
    private val built = StringBuilder()
    private var at = 0
    private var endless = 0 // in this alternative
    private var isRepeatable = false // what stands before may be repeated without end
    private var isOptional = false // or once or not at all
    private var inClass = false

    fun read(): String {
        while (at < text.length) if (inClass) inClass() else outside()
        if (inClass) refuse()
        return built.toString()
    }

    /** What the pattern finds here, or null. */
    private fun starting(pattern: Regex): String? = pattern.find(text, at)?.takeIf { it.range.first == at }?.value

    private fun copy(count: Int) {
        built.append(text, at, at + count)
        at += count
    }

    private fun outside() {
        when (text[at]) {
            '\\' -> escape().also { mayBe(repeated = true, optional = true) }
            '[' -> {
                inClass = true
                copy(if (text.startsWith("[^", at)) 2 else 1)
            }
            '(' -> group()
            ')' -> copy(1).also { mayBe(repeated = false, optional = true) }
            '|' -> {
                endless = 0
                copy(1).also { mayBe(repeated = false, optional = false) }
            }
            '*', '+' -> repeat(1).also { if (++endless > MAX_ENDLESS) refuse() }
            '?' -> if (isOptional) copy(1).also { mayBe(repeated = false, optional = false) } else refuse()
            '{' -> {
                val count = starting(COUNT) ?: refuse()
                if (count.endsWith(",}") && ++endless > MAX_ENDLESS) refuse()
                repeat(count.length)
            }
            '.', '^', '$' -> refuse()
            else -> copy(1).also { mayBe(repeated = true, optional = true) }
        }
    }

    private fun repeat(length: Int) {
        if (!isRepeatable) refuse()
        mayBe(repeated = false, optional = false)
        copy(length)
    }

    private fun mayBe(repeated: Boolean, optional: Boolean) {
        isRepeatable = repeated
        isOptional = optional
    }

    private fun group() {
        val begin = listOf("(?:", "(?!", "(?=").firstOrNull { text.startsWith(it, at) }
        if (begin == null && text.getOrNull(at + 1) == '?') refuse()
        mayBe(repeated = false, optional = false)
        copy(begin?.length ?: 1)
    }

    private fun inClass() {
        when {
            text[at] == '\\' -> escape()
            text[at] == '[' || text.startsWith("&&", at) -> refuse()
            else -> {
                inClass = text[at] != ']'
                mayBe(repeated = !inClass, optional = !inClass)
                copy(1)
            }
        }
    }

    private fun escape() {
        val letter = text.getOrNull(at + 1) ?: refuse()
        when {
            letter == 's' || (letter == 'S' && !inClass) -> {
                built.append(if (inClass) WHITE_SPACE else if (letter == 's') "[$WHITE_SPACE]" else "[^$WHITE_SPACE]")
                at += 2
            }
            letter == 'p' -> copy(starting(PROPERTY)?.length ?: refuse())
            text.startsWith("\\x{17f}", at) -> copy(7)
            letter in "rnt" || letter in "'/.-+*?()[]{}|\\^$" -> copy(2)
            else -> refuse()
        }
    }
}
