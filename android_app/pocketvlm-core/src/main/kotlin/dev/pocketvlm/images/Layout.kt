package dev.pocketvlm.images

import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.ImageLayout

/** Literal token [ids], and so many of the image's own tokens behind them. */
internal class LayoutPiece(val ids: List<Int>, val tokens: Int)

/**
 * Where an image's tokens stand in the prompt: [tokens] of what stands at each place, in sequence order; [packed] is how many
 * they are where they were packed to one picture.
 */
internal fun laidOut(
    layout: ImageLayout,
    grid: Grid,
    thumbnail: Int?,
    tokens: List<Int>,
    packed: Int? = null,
): List<LayoutPiece> {
    if (packed != null) return listOf(LayoutPiece(layout.imageStart, packed), LayoutPiece(layout.imageEnd, 0))
    val pieces = arrayListOf(LayoutPiece(layout.imageStart, 0))
    val next = tokens.iterator()
    if (thumbnail == 0) pieces.add(LayoutPiece(layout.thumbnail, next.next()))
    if (grid.tiles == 1L && thumbnail == null && layout.lone != null) {
        pieces.add(LayoutPiece(layout.lone, next.next()))
    } else {
        for (row in 0 until grid.down) {
            for (column in 0 until grid.across) pieces.add(LayoutPiece(layout.tile[row][column], next.next()))
            val last = layout.lastRowEnd.takeIf { row + 1 == grid.down }
            pieces.add(LayoutPiece(last ?: layout.rowEnd, 0))
        }
    }
    if (thumbnail != null && thumbnail > 0) pieces.add(LayoutPiece(layout.thumbnail, next.next()))
    pieces.add(LayoutPiece(layout.imageEnd, 0))
    return pieces
}
