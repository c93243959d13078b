package dev.pocketvlm.images

import dev.pocketvlm.bundle.Grid
import java.math.BigDecimal
import java.math.RoundingMode
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.sqrt

private const val LENIENCE = 1.1

/**
 * What becomes of the tokens of [grid] tiles of [side] x [side]: those from ([left], [top]) on are kept, [kept] of them,
 * and resized to [size]; a learned one ends each row. Sizes count tokens.
 */
internal class Packed(val side: Int, val grid: Grid, val left: Int, val top: Int, val kept: Size, val size: Size) {
    /** Of the whole image, its thumbnail and the ends of its rows among them. */
    val tokens: Int get() = side * side + size.height * (size.width + 1)
}

/** Of an image of [size] pixels that was cut into [grid] tiles. */
internal fun packed(size: Size, grid: Grid, side: Int, mostTiles: Int?): Packed {
    val width = size.width.toDouble()
    val height = size.height.toDouble()
    val across = grid.across * side
    val down = grid.down * side
    val isWide = width / height > across.toDouble() / down
    val top = if (isWide) (down - whole(height * (across / width))) / 2 else 0
    val left = if (isWide) 0 else (across - whole(width * (down / height))) / 2
    val kept = Size(across - 2 * left, down - 2 * top)
    var shown = kept
    if (mostTiles != null) {
        val most = mostTiles.toLong() * side * side
        val ratio = sqrt((kept.width.toLong() * kept.height).toDouble() / most)
        if (ratio > LENIENCE) shown = Size(floorDivision(kept.width, ratio), floorDivision(kept.height, ratio))
    }
    return Packed(side, grid, left, top, kept, shown)
}

/** Python's int(round(value, 7)) of what is not negative: the nearest decimal, without what follows its point. */
private fun whole(value: Double): Int = BigDecimal(value).setScale(7, RoundingMode.HALF_EVEN).toInt()

/** Python's value // by of what is not negative. */
private fun floorDivision(value: Int, by: Double): Int {
    val quotient = (value - value % by) / by
    val below = floor(quotient)
    return (if (quotient - below > 0.5) below + 1 else below).toInt()
}

/** Of one axis: the first and the second token that are mixed, and the second one's share. */
private class Tap(val first: Int, val second: Int, val share: Float)

private fun taps(length: Int, count: Int): List<Tap> = List(count) { at ->
    val place = max((at + 0.5) * (length.toDouble() / count) - 0.5, 0.0)
    val first = place.toInt()
    if (count == length) Tap(at, at, 0f) else Tap(first, minOf(first + 1, length - 1), (place - first).toFloat())
}

private fun mixed(before: Float, behind: Float, share: Float): Float = before * (1f - share) + behind * share

/** The tokens of all tiles [tiles * side * side, hidden], the thumbnail's first -> the image's [plan.tokens, hidden]. */
internal fun pack(tokens: FloatArray, plan: Packed, newline: FloatArray): FloatArray {
    val side = plan.side
    val hidden = newline.size
    val result = FloatArray(plan.tokens * hidden)
    System.arraycopy(tokens, 0, result, 0, side * side * hidden)
    // where the token at this place of all tiles', which lie side by side, begins
    val at = { row: Int, column: Int ->
        val y = plan.top + row
        val x = plan.left + column
        val tile = 1 + y / side * plan.grid.across + x / side
        ((tile * side + y % side) * side + x % side) * hidden
    }
    var out = side * side * hidden
    val columns = taps(plan.kept.width, plan.size.width)
    for (row in taps(plan.kept.height, plan.size.height)) {
        for (column in columns) {
            val first = at(row.first, column.first)
            val right = at(row.first, column.second)
            val below = at(row.second, column.first)
            val last = at(row.second, column.second)
            for (i in 0 until hidden) {
                val before = mixed(tokens[first + i], tokens[below + i], row.share)
                result[out++] = mixed(before, mixed(tokens[right + i], tokens[last + i], row.share), column.share)
            }
        }
        System.arraycopy(newline, 0, result, out, hidden)
        out += hidden
    }
    return result
}
