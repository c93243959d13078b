package dev.pocketvlm.text

import dev.pocketvlm.PocketVlmException.NotPortable
import dev.pocketvlm.bundle.oneLine

private const val MAX_LENGTH = 1024
private const val MAX_DEPTH = 16
private const val MAX_ENDLESS = 3
private const val MAX_VARYING = 8
private const val MAX_POINTS = 4096
private const val CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
private const val EXPANDED = "(?:'(?:[sS\\x{17f}]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD]))"
private val COUNT = Regex("\\{([0-9]{1,3})(?:(,)([0-9]{0,3}))?\\}")
private val PROPERTY = Regex("\\\\p\\{([LMNPS][a-z]?)\\}")
private val CODE = Regex("\\\\x\\{([0-9A-Fa-f]{1,6})\\}")
private val SPACES = WHITE_SPACE.filter { it - 1 !in WHITE_SPACE }.map { first ->
    first.code until (first..'\uffff').first { it !in WHITE_SPACE }.code
}

/** GPT-2's, which `ByteLevel` splits by. */
internal const val GPT2: String = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/**
 * A pattern of a tokenizer, in the syntax that the patterns of published ones have: sets, greedy repetitions of them,
 * groups, alternatives, what follows. What the tokenizers library (Oniguruma) knows beyond it, or what repeats what
 * repeats, is refused. `pocketvlm/bundle/portable.py` says the same at export.
 *
 * @throws NotPortable naming the pattern
 */
internal fun portablePattern(regex: String): Pattern {
    val refuse = { throw NotPortable("the tokenizer is not portable: it splits by the pattern ${oneLine(regex, 80)}") }
    if (regex.length > MAX_LENGTH) refuse()
    return Pattern(PatternReader(regex.replace(CONTRACTIONS, EXPANDED), refuse).read())
}

/** Each match is a code point of [categories], or all in a row. */
internal fun categoryPattern(categories: Int, inRow: Boolean): Pattern =
    Pattern(Step.Repeat(PointSet(categories, emptyList(), false), 1, if (inRow) Int.MAX_VALUE else 1, Step.Found))

private fun only(point: Int) = PointSet(0, listOf(point..point), false)

/** A part of a pattern: what it costs, as `pocketvlm/bundle/patterns.py` counts it, and its step before others. */
private class Part(val endless: Int, val varying: Int, val points: Int, val before: (Step) -> Step)

private class PatternReader(private val text: String, private val refuse: () -> Nothing) {
    private var at = 0

    fun read(): Step {
        val whole = alternatives(0)
        if (at < text.length || whole.points > MAX_POINTS) refuse()
        return whole.before(Step.Found)
    }

    private fun alternatives(depth: Int): Part {
        if (depth > MAX_DEPTH) refuse()
        val ways = arrayListOf(sequence(depth))
        while (at < text.length && text[at] == '|') {
            at++
            ways.add(sequence(depth))
        }
        if (ways.size == 1) return ways[0]
        return Part(ways.maxOf { it.endless }, ways.maxOf { it.varying }, ways.sumOf { it.points }) { next ->
            Step.Either(ways.map { it.before(next) })
        }
    }

    private fun sequence(depth: Int): Part {
        val parts = ArrayList<Part>()
        while (at < text.length && text[at] != '|' && text[at] != ')') {
            parts.add(if (text[at] == '(') group(depth) else repeated(set()))
        }
        val endless = parts.sumOf { it.endless }
        val varying = parts.sumOf { it.varying }
        if (endless > MAX_ENDLESS || varying > MAX_VARYING) refuse()
        return Part(endless, varying, parts.sumOf { it.points }) { next ->
            parts.foldRight(next) { part, behind -> part.before(behind) }
        }
    }

    /** What the pattern has here, taken; or null. */
    private fun taken(pattern: Regex): List<String>? {
        val match = pattern.find(text, at)?.takeIf { it.range.first == at } ?: return null
        at += match.value.length
        return match.groupValues
    }

    private fun take(letters: String): Boolean = text.startsWith(letters, at).also { if (it) at += letters.length }

    private fun group(depth: Int): Part {
        val looks = take("(?!") || take("(?=")
        val isNegated = looks && text[at - 1] == '!'
        if (!looks && !take("(?:")) {
            at++
            if (at < text.length && text[at] in "?*") refuse()
        }
        val inner = alternatives(depth + 1)
        if (!take(")")) refuse()
        val isOptional = !looks && take("?")
        if (isQuantifier()) refuse()
        return when {
            looks -> Part(inner.endless, inner.varying, inner.points) { Step.Look(inner.before(Step.Found), isNegated, it) }
            isOptional -> Part(inner.endless, inner.varying + 1, inner.points) { next ->
                Step.Either(listOf(inner.before(next), next))
            }
            else -> inner
        }
    }

    private fun isQuantifier(): Boolean = at < text.length && text[at] in "*+?{"

    private fun repeated(set: PointSet): Part {
        val (least, most) = counts()
        if ((least != 1 || most != 1) && isQuantifier()) refuse()
        val points = maxOf(if (most == Int.MAX_VALUE) least else most, 1)
        return Part(if (most == Int.MAX_VALUE) 1 else 0, if (least == most) 0 else 1, points) { Step.Repeat(set, least, most, it) }
    }

    private fun counts(): Pair<Int, Int> = when {
        take("*") -> 0 to Int.MAX_VALUE
        take("+") -> 1 to Int.MAX_VALUE
        take("?") -> 0 to 1
        at < text.length && text[at] == '{' -> {
            val (_, least, comma, most) = taken(COUNT) ?: refuse()
            val last = if (comma.isEmpty()) least.toInt() else if (most.isEmpty()) Int.MAX_VALUE else most.toInt()
            if (least.toInt() > last || isQuantifier()) refuse()
            least.toInt() to last
        }
        else -> 1 to 1
    }

    private fun set(): PointSet = when (text[at]) {
        '[' -> listed()
        '.', '^', '$', '*', '+', '?', '{' -> refuse()
        '\\' -> if (take("\\S")) PointSet(0, SPACES, true) else escape().let { PointSet(it.first, it.second, false) }
        else -> only(point())
    }

    private fun point(): Int = text.codePointAt(at).also { at += Character.charCount(it) }

    private fun listed(): PointSet {
        at++
        val isNegated = take("^")
        var categories = 0
        val ranges = ArrayList<IntRange>()
        if (at < text.length && text[at] == ']') refuse()
        while (!take("]")) {
            if (at >= text.length || text[at] == '[' || text.startsWith("&&", at)) refuse()
            val isFirst = categories == 0 && ranges.isEmpty()
            val isHyphen = text[at] == '-'
            if (isHyphen && !isFirst && !text.startsWith("-]", at)) refuse()
            val (more, listed) = member()
            categories = categories or more
            if (text.startsWith("-", at) && !text.startsWith("-]", at)) {
                at++
                if (isHyphen || at >= text.length || text[at] in "[-") refuse()
                ranges.add(range(listed, member().second))
            } else {
                ranges.addAll(listed)
            }
        }
        return PointSet(categories, ranges, isNegated)
    }

    private fun member(): Pair<Int, List<IntRange>> =
        if (text[at] == '\\') escape() else point().let { 0 to listOf(it..it) }

    private fun range(from: List<IntRange>, to: List<IntRange>): IntRange {
        if (from.size != 1 || to.size != 1 || from[0].first > to[0].first) refuse()
        return from[0].first..to[0].first
    }

    /** Categories and ranges of an escape. */
    private fun escape(): Pair<Int, List<IntRange>> {
        if (take("\\s")) return 0 to SPACES
        taken(PROPERTY)?.let { (_, name) -> return (Categories.mask(name) ?: refuse()) to emptyList() }
        taken(CODE)?.let { (_, digits) ->
            val code = digits.toInt(16)
            if (code > Character.MAX_CODE_POINT || code in 0xd800..0xdfff) refuse()
            return 0 to listOf(code..code)
        }
        at++
        val letter = text.getOrNull(at++) ?: refuse()
        val code = CONTROLS[letter] ?: if (letter in SIGNS) letter.code else refuse()
        return 0 to listOf(code..code)
    }

    private companion object {
        val CONTROLS = mapOf('r' to 13, 'n' to 10, 't' to 9)
        const val SIGNS = "'/.-+*?()[]{}|\\^$!\"#%&,:;<=>@_`~ "
    }
}
