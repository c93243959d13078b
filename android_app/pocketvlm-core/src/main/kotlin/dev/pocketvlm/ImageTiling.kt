package dev.pocketvlm

import dev.pocketvlm.bundle.Manifest
import dev.pocketvlm.images.PicturePlan
import dev.pocketvlm.images.Size

/**
 * How a model sees a picture, known before any work: a grid of tiles of [tileSize] x [tileSize] pixels, perhaps a
 * thumbnail, and what that costs.
 *
 * @property tiles how many the vision encoder runs, the thumbnail among them
 * @property tokens image tokens of the prompt
 * @property areas where each tile of the grid lies on the picture, row by row, without the thumbnail
 */
public class ImageTiling internal constructor(
    public val columns: Int,
    public val rows: Int,
    public val tileSize: Int,
    public val hasThumbnail: Boolean,
    public val tiles: Int,
    public val tokens: Int,
    public val areas: List<TileArea>,
) {
    override fun toString(): String = "$columns x $rows tiles of $tileSize pixels, $tokens tokens"
}

/** A part of a picture, in its pixels from its upper left corner. */
public class TileArea internal constructor(
    public val left: Float,
    public val top: Float,
    public val right: Float,
    public val bottom: Float,
)

internal fun tilingOf(size: Size, plan: PicturePlan, tokens: Int, manifest: Manifest): ImageTiling {
    val tile = checkNotNull(manifest.vision).preprocessing.tiling.tileSize
    val shown = plan.resizes.last()
    // What was resized: the picture, or a square in whose middle it lies.
    val whole = if (plan.square > 0) Size(plan.square, plan.square) else size
    val left = (whole.width - size.width) / 2
    val top = (whole.height - size.height) / 2
    val across = { at: Int ->
        ((at * tile - plan.left).toFloat() * whole.width / shown.width - left).coerceIn(0f, size.width.toFloat())
    }
    val down = { at: Int ->
        ((at * tile - plan.top).toFloat() * whole.height / shown.height - top).coerceIn(0f, size.height.toFloat())
    }
    val cut = plan.canvas
    val areas = (0 until cut.tiles.toInt()).map { index ->
        val column = index % cut.across
        val row = index / cut.across
        TileArea(across(column), down(row), across(column + 1), down(row + 1))
    }
    return ImageTiling(cut.across, cut.down, tile, plan.thumbnail != null, plan.tiles, tokens, areas)
}
